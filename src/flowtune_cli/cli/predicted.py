"""The task and the file that ``flowtune evaluate`` and ``postprocess`` are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..flow.errors import UsageError
from ..flow.paths import expanded
from . import options
from .completion import complete_checkpoint, complete_task
from .origins import tell_origins
from .programs import find

if TYPE_CHECKING:
    from ..flow.task import Task
    from ..programs.find import Given
    from ..registry import Registry

FirstArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK",
        help="The task, see 'flowtune ls tasks'; leave it out where --run says it.",
        show_default=False,
        autocompletion=complete_task,
    ),
]
SecondArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PREDICTIONS",
        help="The file that 'flowtune predict' wrote; always needed.",
        show_default=False,
    ),
]
PlayedRunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="The run that predicted: its task, with the settings that it has there.",
        autocompletion=complete_checkpoint,
    ),
]


def predicted(
    registry: Registry,
    first: str | None,
    second: Path | None,
    run: str | None,
    given: Given,
    *,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
) -> tuple[Task, Path]:
    """The task, and the predictions.

    Args:
        first, second: the arguments: a task and a file, or a file alone, which needs ``run``.

    Raises:
        UsageError: neither says which task is meant, or both and not the same.
    """
    if first is None:
        raise UsageError(
            "say which predictions are meant: TASK PREDICTIONS, or PREDICTIONS --run RUN"
        )
    task, path = (first, second) if second is not None else (None, expanded(Path(first)))
    if run is not None:
        from .player import load_player

        player = load_player(
            registry, task, run, config, overrides, preset, given, needs_nodes=False
        )
        return player.task, path
    if task is None:
        raise UsageError(
            f"predictions do not say of which task they are: name it before '{first}', or the run"
            " that predicted, by --run"
        )
    found = find(registry, task, given, config=config, overrides=overrides)
    flags = {"preset": preset, **found.flags}
    resolved = options.settings(
        registry, found.task_class, config=config, overrides=overrides, flags=flags
    )
    tell_origins(resolved)
    return resolved.make_task(), path
