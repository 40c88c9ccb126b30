"""The options that say what a program is, and the task that a command's arguments mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError
from .completion import complete_task
from .output import warn
from .renamed_nodes import Renamed, renamed_tasks

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..flow.task import Task
    from ..programs.find import Found, Given
    from ..registry import Registry
    from ..runs.directory import RunDirectory

ProgramOption = Annotated[
    str | None,
    typer.Option(
        "--program",
        metavar="COMMAND",
        help="An executable that is the flow, such as 'python flow.py'.",
    ),
]
RewardOption = Annotated[
    str | None,
    typer.Option(
        "--reward",
        metavar="FILE.py:FUNCTION",
        help="What judges a program's result: a function of (example, result).",
    ),
]
GoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gold",
        metavar="FIELD",
        help="A field of the data that the program is not shown; may be repeated.",
    ),
]
ProgramTaskArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK",
        help="The task, see 'flowtune ls tasks'; or a function of yours, as FILE.py:FUNCTION.",
        show_default=False,
        autocompletion=complete_task,
    ),
]


def given(
    program: str | None = None,
    reward: str | None = None,
    gold: Sequence[str] | None = None,
) -> Given:
    """What the options say of a program."""
    from ..programs.find import Given

    return Given(program, reward, gold or ())


def find(
    registry: Registry,
    task: str | None,
    given: Given,
    *,
    config: Path | None = None,
    overrides: Sequence[str] | None = None,
    run: RunDirectory | None = None,
    renamed: Renamed | None = None,
) -> Found:
    """The task that a command's arguments mean.

    Args:
        run: the one that is used or gone on with, which knows its own program.
        renamed: its nodes that have other names now.
    """
    from ..programs.find import find_task
    from .stored_settings import settings_file, stored_settings

    stored: Mapping[str, Any] | None = None
    if run is not None:
        stored = stored_settings(run)["settings"].get("tasks", {})
        stored = renamed_tasks(stored, run.info.task, renamed or {})
        config = settings_file(run, config)
        if task is None and given.program is None:
            task = run.info.task
    return find_task(
        registry,
        task,
        given,
        config=config,
        environ=os.environ,
        overrides=overrides or (),
        stored=stored,
    )


def ready(
    task: Task, resolved: Resolved, run: RunDirectory | None = None, *, needs_nodes: bool = True
) -> None:
    """Check that a task can be played, before a model is loaded; tells what has changed.

    Args:
        run: the one whose program it was.

    Raises:
        UsageError: it cannot.
    """
    from ..programs.files import changed_files
    from ..programs.task import ProgramTask
    from .stored_settings import stored_settings
    from .task_code import code_digest, code_place

    if not isinstance(task, ProgramTask):
        then = None if run is None else stored_settings(run).get("task_sha256")
        if run is not None and then is not None and then != code_digest(type(task)):
            warn(
                f"the code of task '{task.name}' ({code_place(type(task))}) has changed since run"
                f" '{run.path.name}' began, and is used as it is now"
            )
        return
    task.load()
    if run is not None:
        digests = stored_settings(run).get("program_sha256") or {}
        for line in changed_files(digests, resolved.settings.tasks[task.name]):
            warn(f"{line} since run '{run.path.name}' began, and is used as it is now")
    if needs_nodes and not task.nodes:
        raise UsageError(
            f"no node of task '{task.name}' is declared. 'flowtune check' with the same arguments"
            f" finds them and writes them into flowtune.toml, as [tasks.{task.name}.nodes.NODE]."
        )


def warn_of_tools(task: Task) -> None:
    """Say that whatever an executable does besides calling its nodes is done in every rollout."""
    from ..programs.executable import Executable
    from ..programs.task import ProgramTask

    if isinstance(task, ProgramTask) and isinstance(task.program, Executable):
        warn(
            f"'{task.settings.program}' plays again in every rollout, with all its tools: these"
            " must be harmless to run several times and give the same each time, or be remembered"
            " by POST /effects (docs/gateway.md)"
        )
