"""A tiny model to run on. torch is imported in fixtures alone, see the conftest.py above."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.device import DEVICE

if TYPE_CHECKING:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import LoadedModel

# The tutorial's own tests need its plugin to be installed: test_example_plugin.py runs them so.
collect_ignore = ["example_plugin"]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 layers with a token a byte: 258 tokens, a context of 1024, ChatML."""
    from flowtune_cli.testing import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def roomy_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a context of 2048: MuSiQue's invented examples alone nearly fill 1024 bytes."""
    from flowtune_cli.testing import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("roomy-model"), context=2048)


@pytest.fixture
def tiny_settings(tiny_model_dir: Path) -> ModelSettings:
    """The tiny model in float32, where fast and slow paths agree to 1e-4."""
    from flowtune_cli.config.settings import ModelSettings

    return ModelSettings(name=str(tiny_model_dir), device=DEVICE, dtype="float32")


@pytest.fixture(scope="session")
def _loaded(tiny_model_dir: Path) -> LoadedModel:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import load_model
    from flowtune_cli.registry import load_registry

    settings = ModelSettings(name=str(tiny_model_dir), device=DEVICE, dtype="float32")
    return load_model(settings, load_registry())


@pytest.fixture
def tiny_model(_loaded: LoadedModel) -> LoadedModel:
    """The tiny model in float32, loaded: a copy of its own for each test."""
    return replace(
        _loaded, model=copy.deepcopy(_loaded.model), tokenizer=copy.deepcopy(_loaded.tokenizer)
    )
