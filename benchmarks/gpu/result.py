"""What a stage finds, written to its file after every step, so that a stop loses one step."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import write_json


class Result:
    """The result of a stage: its state, its seconds, its figures and its failures.

    Args:
        path: the file; whatever was in it is replaced.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self.start = time.perf_counter()
        self.content: dict[str, Any] = {
            "stage": stage,
            "state": "running",
            "seconds": 0.0,
            "figures": {},
            "failures": {},
        }
        self._write()

    def add(self, **figures: Any) -> None:
        """Note figures, which are JSON values."""
        self.content["figures"].update(figures)
        self._write()

    def fail(self, step: str, text: str) -> None:
        """Note that a step failed; others go on."""
        self.content["failures"][step] = text
        self._write()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """In this block, an error is the failure of this step alone."""
        try:
            yield
        except Exception:
            self.fail(name, traceback.format_exc())

    def end(self) -> bool:
        """Close the result; whether nothing failed."""
        failed = bool(self.content["failures"])
        self.content["state"] = "failed" if failed else "done"
        self._write()
        return not failed

    def _write(self) -> None:
        self.content["seconds"] = round(time.perf_counter() - self.start, 2)
        write_json(self.path, self.content)
