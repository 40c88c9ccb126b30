"""What flowtune calls: brings the task "toyqa"."""

from __future__ import annotations

from collections.abc import Callable

from flowtune_cli import hookimpl


@hookimpl
def register_tasks(register: Callable[[type], None]) -> None:
    from .flow import ToyQA

    register(ToyQA)
