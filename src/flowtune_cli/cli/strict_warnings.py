"""``PYTHONWARNINGS=error`` and ``python -W error`` are for flowtune and its plugins alone.

torch, transformers and others warn at import and while they load a model, in ways that change with
every release: as errors, these would end a command that works. So where the user makes all warnings
errors, those of other libraries keep Python's usual treatment.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any


def leave_libraries_out() -> None:
    """Narrow filters that the user set, and that make errors of everybody's warnings."""
    if not any(option.startswith("error") for option in sys.warnoptions):
        return
    from importlib.metadata import entry_points

    from ..registry.hookspecs import GROUP

    points = entry_points(group=GROUP)
    names = ["__main__", *{point.module.partition(".")[0] for point in points}]
    warnings.filters[:] = narrowed(warnings.filters, ["flowtune_cli", *names])  # type: ignore[index]
    _forget_what_was_decided()


def narrowed(filters: Sequence[Any], packages: Sequence[str]) -> list[Any]:
    """Filters of ``warnings``, in which 'error' for all modules is for these packages alone."""
    own = re.compile(rf"(?:{'|'.join(map(re.escape, packages))})(?:\.|\Z)")
    return [
        (action, message, category, own, line)
        if (action, module) == ("error", None)
        else (action, message, category, module, line)
        for action, message, category, module, line in filters
    ]


def _forget_what_was_decided() -> None:
    """Have ``warnings`` look at its filters again, as any public change of them does."""
    warnings.simplefilter("default", category=_Never, append=True)


class _Never(Warning):
    """Nobody warns so."""
