"""What flowtune loads: registers the two MuSiQue tasks and their post-processors."""

from __future__ import annotations

from collections.abc import Callable

from flowtune_cli import PostProcessor, Task, hookimpl


@hookimpl
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    from .flow import MusiqueAnswerable, MusiqueFull

    register(MusiqueAnswerable)
    register(MusiqueFull)


@hookimpl
def register_postprocessors(register: Callable[[type[PostProcessor]], None]) -> None:
    from .postprocessors import Grounded, Pairwise

    register(Grounded)
    register(Pairwise)
