"""What flowtune calls: provides the model "smollm2-135m"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowtune_cli import hookimpl


@hookimpl
def register_models(register: Callable[[Any], None]) -> None:
    from .model import SmolLM2

    register(SmolLM2())
