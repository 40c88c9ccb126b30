"""The run that ``flowtune predict --NAME`` means where neither task nor run is said: the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..flow.errors import UsageError
from ..flow.left_out import listed
from ..runs.directory import RunDirectory, list_runs
from . import options
from .stored_settings import stored_settings

if TYPE_CHECKING:
    from ..registry import Registry


@dataclass(frozen=True)
class Meant:
    """A run, and what its flow is to be played on.

    Args:
        run: its path.
        data: None is the task's default data.
    """

    run: str
    data: Path | None
    split: str


def newest_for(
    registry: Registry,
    postprocessors: Sequence[str],
    *,
    data: Path | None,
    split: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
) -> Meant:
    """The newest run with a checkpoint whose task these post-processors are for.

    Args:
        postprocessors: their names.
        data, split: what the command was told; else another split than the run was trained on.

    Raises:
        UsageError: there is no such run, or its data has one split alone; says what to do.
    """
    tasks = _tasks(registry, postprocessors)
    flags = " ".join(f"--{name}" for name in postprocessors)
    parent = options.settings(registry, config=config, overrides=overrides).settings.run.directory
    runs = [run for run in list_runs(parent) if run.task in tasks]
    trained = [run for run in runs if any((run.path / "checkpoints").glob("[0-9]*"))]
    if not trained:
        why = f"has a checkpoint yet: {listed([r.name for r in runs])}" if runs else "is there"
        raise UsageError(
            f"{flags} is for {' and '.join(tasks)}, and no run of it {why}, in {parent.absolute()}."
            f" Train one with 'flowtune train {tasks[0]}', name one with --run, or name the task,"
            " to play its untrained flow"
        )
    newest = RunDirectory(trained[-1].path)
    stored = stored_settings(newest)["data"]
    if data is None and stored["path"] is not None:
        data = Path(stored["path"])
        if not data.is_dir():
            raise UsageError(
                f"the newest run, '{newest.path.name}', was trained on the file {data}: say what to"
                " predict, by --data FILE"
            )
    splits = registry.task(newest.info.task).splits
    if split is None:
        split = next((name for name in splits if name != stored["split"]), stored["split"])
    return Meant(str(newest.path), data, split)


def _tasks(registry: Registry, postprocessors: Sequence[str]) -> list[str]:
    """The tasks that all of these are for."""
    things = [registry.postprocessor(name) for name in postprocessors]
    tasks = [name for name in things[0].tasks if all(name in other.tasks for other in things)]
    if not tasks:
        names = " and ".join(f"--{name}" for name in postprocessors)
        raise UsageError(f"{names} are for different tasks: choose one of them")
    return tasks
