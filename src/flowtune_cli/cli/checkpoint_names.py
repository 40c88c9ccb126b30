"""``RUN@CHECKPOINT``: a run as of one of its checkpoints, wherever a command plays one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..flow.errors import UsageError
from ..runs.directory import RunDirectory
from .run_overrides import find_run

if TYPE_CHECKING:
    from ..registry import Registry

LAST = "last"


def find_checkpoint(
    registry: Registry, name: str, config: Path | None, overrides: Sequence[str] | None
) -> tuple[RunDirectory, Path]:
    """A run and one of its checkpoints: ``first`` or ``first@last`` is the newest, ``first@800``
    the one after 800 episodes.

    Raises:
        UsageError: there is no such run, or it has no such checkpoint; lists those that it has.
    """
    run, wanted = split_name(registry, name, config, overrides)
    return run, checkpoint_of(run, wanted)


def split_name(
    registry: Registry, name: str, config: Path | None, overrides: Sequence[str] | None
) -> tuple[RunDirectory, str]:
    """A run, and which of its checkpoints is meant.

    Raises:
        UsageError: there is no such run.
    """
    try:
        return find_run(registry, name, config, overrides), LAST
    except UsageError:
        before, at, wanted = name.rpartition("@")
        if not (at and before):
            raise
        return find_run(registry, before, config, overrides), wanted


def checkpoint_of(run: RunDirectory, wanted: str = LAST) -> Path:
    """A run's checkpoint by its number of episodes, or the newest one.

    Raises:
        UsageError: it has no such checkpoint.
    """
    from ..training.checkpoint import checkpoints

    found = {int(path.name): path for path in checkpoints(run.checkpoints)}
    if not found:
        raise UsageError(
            f"run '{run.path.name}' has no checkpoint yet: training saves one after every"
            " training.save_every episodes, when it is stopped, and at its end"
        )
    if wanted == LAST:
        return found[max(found)]
    if wanted.isdecimal() and int(wanted) in found:
        return found[int(wanted)]
    raise UsageError(
        f"run '{run.path.name}' has no checkpoint '{wanted}': it has"
        f" {', '.join(map(str, sorted(found)))} (episodes) and '{LAST}'."
        " training.keep_checkpoints says how many are kept."
    )
