"""A run knows its local model from everywhere, where it was moved, and where it is another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flowtune_cli.cli.stored_model import check_model
from flowtune_cli.cli.stored_settings import model_texts_digest
from support.installed_plugins import Site
from support.runs_compared import press_ctrl_c

Run = Callable[..., Any]
MODEL = "models/tiny"


@pytest.fixture
def begun(letters: Site, run: Run, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run on a model that was given by a relative path, stopped; another folder is current."""
    shutil.copytree(tiny_model_dir, MODEL)
    monkeypatch.delenv("FLOWTUNE_MODEL__NAME")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 12)
        assert run("train", "letters", "--model", MODEL, "--name", "a").code == 130
    path = Path("runs/a").absolute()
    Path("other").mkdir()
    monkeypatch.chdir("other")
    return str(path)


def stored(path: str) -> Any:
    return json.loads(Path(path, "settings.json").read_text())


def change(model: Path) -> None:
    file = model / "model.safetensors"
    weights = load_file(file)
    first = next(iter(weights))
    weights[first] = weights[first] + 1
    save_file(weights, file, metadata={"format": "pt"})


def test_from_another_folder(begun: str, run: Run) -> None:
    model = Path("..", MODEL).resolve()
    assert stored(begun)["settings"]["model"]["name"] == str(model)
    played = run("play", "letters", "--run", begun, "--json")
    assert played.code == 0, played.err
    again = ("--set", f"model.name=../{MODEL}")
    assert run("play", "letters", "--run", begun, "--json", *again).out == played.out
    exported = run("export", begun, "--adapters", "e", "--preferences", "p.jsonl", "--json")
    assert json.loads(exported.out)["adapters"]["base_model"]["loaded_from"] == str(model)
    assert run("train", "--resume", begun, "--model", f"../{MODEL}").code == 0


def test_gone(begun: str, run: Run) -> None:
    shutil.rmtree(f"../{MODEL}")
    for command in (
        ["train", "--resume", begun],
        ["train", "letters", "--from", begun],
        ["play", "letters", "--run", begun],
        ["predict", "letters", "--run", begun, "--out", "p.jsonl"],
        ["export", begun, "--adapters", "e"],
        ["export", begun, "--preferences", "p.jsonl"],
    ):
        done = run(*command)
        assert done.code == 2
        assert "the model of run 'a' is gone: there is no /" in done.err
        assert "hub" not in done.err
        assert not Path("e").exists()


def test_moved(begun: str, run: Run) -> None:
    played = run("play", "letters", "--run", begun, "--json").out
    new = Path("new").absolute()
    shutil.move(f"../{MODEL}", new)
    moved = ("--set", "model.name=./new")
    assert (
        json.loads(run("play", "letters", "--run", begun, "--json", *moved).out)["steps"]
        == json.loads(played)["steps"]
    )
    exported = json.loads(run("export", begun, "--adapters", "e", "--json", *moved).out)
    assert exported["adapters"]["base_model"]["loaded_from"] == str(new)
    assert run("train", "--resume", begun, "--model", "./new").code == 0
    assert stored(begun)["settings"]["model"]["name"] == str(new)
    assert run("play", "letters", "--run", begun).code == 0


def test_another_at_the_same_place_or_elsewhere(begun: str, run: Run) -> None:
    shutil.copytree(f"../{MODEL}", "other-weights")
    change(Path("other-weights"))
    for command in (["train", "--resume", begun], ["train", "letters", "--from", begun]):
        done = run(*command, "--model", "./other-weights")
        assert done.code == 2
        assert "model.name = " in done.err
    change(Path("..", MODEL))
    for command in (["train", "--resume", begun], ["play", "letters", "--run", begun]):
        done = run(*command)
        assert done.code == 2
        assert "has other weights than when run 'a' began" in done.err


def test_another_tokenizer_or_chat_template_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    begun: Any = SimpleNamespace(path=Path("runs/a"))
    files = ("tokenizer.json", "chat_template.jinja", "generation_config.json", "config.json")
    for name in files:
        (model / name).write_text("{}")
    then = {"model_texts_sha256": model_texts_digest(str(model))}
    for name in files:
        (model / name).write_text("{ }")
        check_model(begun, then, str(model))
        told = capsys.readouterr().err
        assert ("has changed since run 'a' began" in told) == (name != "config.json")
        (model / name).write_text("{}")
    check_model(begun, {}, str(model))  # a run of before
    check_model(begun, then, str(model))
    assert capsys.readouterr().err == ""


def test_a_model_that_plays_a_node_is_known_again(begun: str, run: Run) -> None:
    other = Path(shutil.copytree(f"../{MODEL}", "other-model"))
    change(other)
    plays = ("--set", "tasks.letters.nodes.write.model=other-model")
    begun_b = ("train", "letters", "--limit", "1", "--name", "b", "--model", f"../{MODEL}")
    assert run(*begun_b, *plays).code == 0
    digests = stored("runs/b")["node_models_sha256"]
    assert list(digests) == [str(other.resolve())]
    assert "node_models_sha256" not in stored(begun)
    assert run("play", "letters", "--run", "b").code == 0
    change(other)
    for command in (("train", "--resume", "b", "--limit", "2"), ("play", "letters", "--run", "b")):
        refused = run(*command)
        assert refused.code == 2
        assert "other-model, which plays node 'write', is gone or has other weights" in refused.err
    base = ("--set", "tasks.letters.nodes.write.model=")
    assert run("play", "letters", "--run", "b", *base).code == 0
