"""Fake servers of vLLM, and an engine that they decode for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.models.loading import LoadedModel
from support.fake_servers import Serve
from support.fake_vllm import FakeVllm
from support.tiny import make_adapters, make_engine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowtune_cli.rollouts.fleet._PAUSE", 0.02)


@pytest.fixture
def fresh_model(_loaded: LoadedModel) -> LoadedModel:
    """The tiny model, of which a server makes its own; adapters are on that of ``tiny_model``."""
    return replace(_loaded, model=copy.deepcopy(_loaded.model))


@pytest.fixture
def serve(fresh_model: LoadedModel) -> Iterator[Serve]:
    """Start a server of the tiny model."""
    with ExitStack() as stack:

        def start(**more: Any) -> FakeVllm:
            rank = more.pop("rank", 4)
            made = FakeVllm(fresh_model, AdapterSettings(rank=rank), **more)
            return stack.enter_context(made)

        yield start


@pytest.fixture
def local(tiny_model: LoadedModel) -> ModelEngine:
    """An engine on the tiny model, with random adapters ``a`` and ``b``."""
    return make_engine(tiny_model, make_adapters(tiny_model))
