"""What a run's flow made of the held-out examples before training, to compare later results to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..flow.errors import UsageError
from .atomic import read_json, write_json


class UntrainedResults:
    """The results, in a file of the run's directory.

    Args:
        path: need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, results: Mapping[int, Any]) -> None:
        """Keep the results.

        Args:
            results: JSON values, by the number of the example.

        Raises:
            UsageError: a result is no JSON value.
        """
        for result in results.values():
            try:
                same = json.loads(json.dumps(result, allow_nan=False)) == result
            except (TypeError, ValueError):
                same = False
            if not same:
                raise UsageError(
                    "the flow reports no reward, so its results on held-out examples are compared"
                    " with those before training, which are kept as JSON. A result of type"
                    f" '{type(result).__name__}' is no JSON value: return texts, numbers, lists and"
                    " dictionaries with texts as keys, or set training.evaluate.every = 0"
                )
        write_json(self.path, [[number, result] for number, result in sorted(results.items())])

    def read(self) -> Mapping[int, Any] | None:
        """The results, by the number of the example; None if there are none."""
        if not self.path.is_file():
            return None
        return dict(read_json(self.path))
