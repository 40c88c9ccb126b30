"""An engine that fake servers of vLLM decode for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.rollouts.engine import VllmEngine
from flowtune_cli.rollouts.fleet import Fleet
from support.fake_vllm import FakeVllm

Serve = Callable[..., FakeVllm]


class Addressed(Protocol):
    """A server, fake or real."""

    @property
    def url(self) -> str: ...


@contextmanager
def connected(
    local: ModelEngine, *servers: Addressed, patience: float = 20.0
) -> Iterator[VllmEngine]:
    """An engine whose outputs servers decode; they hold no adapters yet."""
    fleet = Fleet([server.url for server in servers], None, patience)
    try:
        yield VllmEngine(local, fleet)
    finally:
        fleet.close()


@contextmanager
def rolling(
    local: ModelEngine, directory: Path, *servers: Addressed, **more: Any
) -> Iterator[VllmEngine]:
    """The same, with the adapters on the servers."""
    with connected(local, *servers, **more) as engine, engine.publishing(directory, "run"):
        yield engine
