"""Fake servers of vLLM, and an engine that they decode for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.rollouts.engine import VllmEngine
from flowtune_cli.rollouts.fleet import Fleet
from support.fake_vllm import FakeVllm
from support.tiny import make_adapters, make_engine

Serve = Callable[..., FakeVllm]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowtune_cli.rollouts.fleet._PAUSE", 0.02)


@pytest.fixture
def serve(_loaded: LoadedModel) -> Iterator[Serve]:
    """Start a server of the tiny model."""
    with ExitStack() as stack:

        def start(**more: Any) -> FakeVllm:
            rank = more.pop("rank", 4)
            made = FakeVllm(_loaded, AdapterSettings(rank=rank), **more)
            return stack.enter_context(made)

        yield start


@pytest.fixture
def local(tiny_model: LoadedModel) -> ModelEngine:
    """An engine on the tiny model, with random adapters ``a`` and ``b``."""
    return make_engine(tiny_model, make_adapters(tiny_model))


@contextmanager
def connected(
    local: ModelEngine, *servers: FakeVllm, patience: float = 20.0
) -> Iterator[VllmEngine]:
    """An engine whose outputs servers decode; they hold no adapters yet."""
    fleet = Fleet([server.url for server in servers], None, patience)
    try:
        yield VllmEngine(local, fleet)
    finally:
        fleet.close()


@contextmanager
def rolling(
    local: ModelEngine, directory: Path, *servers: FakeVllm, **more: Any
) -> Iterator[VllmEngine]:
    """The same, with the adapters on the servers."""
    with connected(local, *servers, **more) as engine, engine.publishing(directory, "run"):
        yield engine
