"""What flowtune loads: registers the two MuSiQue tasks."""

from __future__ import annotations

from collections.abc import Callable

from flowtune_cli import Task, hookimpl


@hookimpl
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    from .flow import MusiqueAnswerable, MusiqueFull

    register(MusiqueAnswerable)
    register(MusiqueFull)
