"""``flowtune models``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import MODEL, Site

Run = Callable[..., Any]


@pytest.fixture
def small(site: Site, tmp_path: Path) -> Path:
    """The directory of the model "small", which a plugin provides."""
    site.install("models", MODEL.format(directory=tmp_path / "small"))
    return tmp_path / "small"


def test_a_plugins_model_is_fetched(small: Path, run: Run) -> None:
    for arguments, said in (([], "fetched\n"), (["--verify"], "verified\n")):
        done = run("models", "fetch", "small", *arguments)
        assert (done.out, done.err) == (f"{small}\n", said)
    shown = run("models", "fetch", "small", "--json")
    assert json.loads(shown.out) == {"name": "small", "directory": str(small)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smal"], "unknown model 'smal'. Did you mean 'small'?"),
        (["small", "--revision", "v1"], "--revision is for Hugging Face ids"),
        (["org/name", "--verify"], "--verify is for models of plugins"),
        (["./model"], "there is no model directory"),
        (["org/name"], "'org/name' is not (wholly) on this machine, and the hub is out of reach"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_what_cannot_be_fetched(small: Path, run: Run, arguments: list[str], said: str) -> None:
    done = run("models", "fetch", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_path_needs_no_fetching(small: Path, run: Run) -> None:
    small.mkdir()
    done = run("models", "fetch", str(small))
    assert done.code == 2
    assert "on this machine already: nothing to fetch" in done.err


def test_a_model_of_the_hub_is_printed_from_its_cache(
    run: Run, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model_dir, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text("0" * 40)
    done = run("models", "fetch", "org/name", "--revision", "v1")
    assert (done.code, done.out) == (0, f"{snapshot}\n")
    assert run("models", "fetch", "org/name", "--revision", "v2").code == 2
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    done = run("models", "fetch", "org/name", "--revision", "v1")
    assert (done.code, done.out) == (2, "")
    assert "is no model that generates text" in done.err


def test_a_plugins_model_is_fetched_without_torch(small: Path, site: Site) -> None:
    code = (
        "import sys; from flowtune_cli.cli.main import main\n"
        "assert main(['models', 'fetch', 'small']) == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=site.environ(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
