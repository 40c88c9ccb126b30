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

LAST, BEST = "last", "best"


def find_checkpoint(
    registry: Registry, name: str, config: Path | None, overrides: Sequence[str] | None
) -> tuple[RunDirectory, Path]:
    """A run and one of its checkpoints: ``first`` or ``first@last`` is the newest, ``first@best``
    the one with the best figure on held-out examples, ``first@800`` the one after 800 episodes.

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
    """A run's checkpoint by its number of episodes, or the newest, or the best one.

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
    if wanted == BEST:
        best = _best(run)
        if best not in found:
            raise UsageError(
                f"the best checkpoint of run '{run.path.name}', that after {best} episodes, is no"
                f" longer in {run.checkpoints}"
            )
        return found[best]
    if wanted.isdecimal() and int(wanted) in found:
        return found[int(wanted)]
    raise UsageError(
        f"run '{run.path.name}' has no checkpoint '{wanted}': it has"
        f" {', '.join(map(str, sorted(found)))} (episodes) and '{LAST}', and '{BEST}' if some were"
        " evaluated. training.keep_checkpoints says how many are kept."
    )


def _best(run: RunDirectory) -> int:
    """The number of episodes of the best checkpoint.

    Raises:
        UsageError: no checkpoint was evaluated, or none has a figure.
    """
    from ..runs.evaluations import best_of
    from ..runs.reader import RunReader, has_data

    evaluations = []
    if has_data(run.store_path):
        with RunReader(run.store_path) as reader:
            evaluations = reader.evaluations()
    best = best_of(evaluations)
    if best is not None:
        return best.episodes
    why = "has no evaluation on held-out examples, so none of its checkpoints is the best: train"
    why += " with training.evaluate.every"
    if evaluations:
        why = f"has no evaluation in which '{evaluations[0].metric}' is defined"
    raise UsageError(f"run '{run.path.name}' {why}. '@{LAST}' is its newest checkpoint")
