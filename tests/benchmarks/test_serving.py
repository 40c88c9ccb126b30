"""The load on a server: every answer is counted, errors are told, and answers are compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving
from benchmarks.serving import Load
from flowtune_cli.gateway.listener import Listener
from flowtune_cli.nodes import Chat
from support.fake_engine import FlowTask
from support.served import served
from support.stepping_engine import SteppingEngine


def test_clients_ask_until_the_time_is_up() -> None:
    engine = SteppingEngine(lambda node, prompt, output: "a parcel's answer")

    async def flow(episode: Any, example: Any) -> Any:
        raise NotImplementedError

    with served(FlowTask([Chat(name="node")], flow), engine) as made:
        listener = Listener(made.app, "127.0.0.1", 0)
        ready = threading.Event()
        thread = threading.Thread(target=listener.run, args=(ready.set,))
        thread.start()
        assert ready.wait(20)
        try:
            sizes = {"clients": 3, "seconds": 0.3, "tokens": 2}
            found = asyncio.run(serving.load(listener.url, "node", first=100, **sizes))  # type: ignore[arg-type]
            failed = asyncio.run(serving.load(listener.url, "other", **sizes))  # type: ignore[arg-type]
        finally:
            listener.stop()
            thread.join(40)
    assert found.errors == []
    assert len(found.latencies) == len(found.answers) >= 3
    assert set(found.answers.values()) == {("a parcel's", 2)}
    assert sorted(found.answers) == list(range(100, 100 + len(found.answers)))
    assert found.tokens == 2 * len(found.answers)
    assert f"{len(found.latencies):10}" in serving.row("ours", found)
    assert failed.answers == {}
    assert "does not exist" in failed.errors[0]


def test_answers_are_compared() -> None:
    ours = Load(answers={1: ("a", 1), 2: ("b", 2), 3: ("c", 3)})
    theirs = Load(answers={2: ("b", 2), 3: ("x", 3), 4: ("d", 4)})
    assert serving.compared(ours, theirs) == (
        "of 2 prompts that both answered, 1 have the same text, and 2 the same number of tokens"
    )


@pytest.mark.parametrize("named", [True, False])
def test_a_model_whose_class_is_not_named(
    tiny_model_dir: Path, tmp_path: Path, named: bool
) -> None:
    config = json.loads((tiny_model_dir / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    if named:
        assert serving.with_architecture(str(tiny_model_dir), tmp_path) == str(tiny_model_dir)
        return
    model, folder = tmp_path / "model", tmp_path / "named"
    model.mkdir()
    folder.mkdir()
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").write_bytes(b"weights")
    assert serving.with_architecture(str(model), folder) == str(folder)
    made = json.loads((folder / "config.json").read_text())
    assert made == {**config, "architectures": ["LlamaForCausalLM"]}
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((model / "config.json").read_text()) == config


def test_both_servers_get_the_same_work(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    asked: list[Any] = []

    @contextlib.contextmanager
    def started(command: list[str], url: str, folder: Path) -> Any:
        commands.append(command)
        yield

    async def load(url: str, model: str, **more: Any) -> Load:
        asked.append((model, more["seconds"], more["tokens"], more["clients"]))
        return Load(2.0, [0.5] * 4, [], dict.fromkeys(range(4), ("a", 5)))

    monkeypatch.setattr(serving, "started", started)
    monkeypatch.setattr(serving, "load", load)
    model = str(tiny_model_dir)
    given = ["--clients", "2", "--seconds", "3", "--model", model, "--transformers", "their-python"]
    assert serving.main([*given, "--option=--continuous-batching"]) == 0
    ours, theirs = commands
    assert ours[3:6] == ["serve", "--task", "load"]
    assert (theirs[0], theirs[3:5], theirs[-1]) == (
        "their-python",
        ["serve", model],
        "--continuous-batching",
    )
    assert asked == [(m, s, 32, 2) for m in ("node", model) for s in (0.1, 3.0)]
    out = capsys.readouterr().out
    assert out.count(" 2.00     10.00      0.50      0.50      0.50") == 2
    assert "of 4 prompts that both answered, 4 have the same text" in out
