"""A lone surrogate in data: every command goes on, and shows the escape that the model read."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.registry import load_registry
from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site

ESCAPE = "\\ud800"
TEXT = "a \ud800 b \udc00"
SHOWN = "a \\ud800 b \\udc00"
Run = Callable[..., Any]


@pytest.fixture
def data(letters: Site) -> Path:
    lines = [json.dumps({"id": str(n), "question": f"{TEXT} {n}", "gold": n}) for n in range(4)]
    assert ESCAPE in lines[0]
    Path("data.jsonl").write_text("\n".join(lines))
    return Path("data.jsonl")


def test_a_run_reads_and_stores_the_escape(run: Run, data: Path) -> None:
    done = run("train", "letters", "--data", str(data), "--name", "a")
    assert done.code == 0, done.err
    with RunReader(Path("runs/a/store.sqlite")) as reader:
        episode = reader.episode(0)
    assert SHOWN in episode.question
    assert SHOWN in episode.steps[0].prompt
    for option, name in (("--episodes", "e.jsonl"), ("--preferences", "p.jsonl")):
        assert run("export", "a", option, name).code == 0
        lines = [json.loads(line) for line in Path(name).read_text("utf-8").splitlines()]
        assert lines
        assert any(SHOWN in text for text in _texts(lines))
    assert run("report", "a", "--out", "a.html").code == 0
    assert SHOWN in Path("a.html").read_text("utf-8")
    played = run("play", "letters", "--data", str(data), "--run", "a", "--deviate", "--json")
    assert (played.code, SHOWN in "".join(_texts(json.loads(played.out)))) == (0, True)
    played = run("play", "letters", "--data", str(data), "--run", "a", "--full")
    assert (played.code, SHOWN in played.out) == (0, True)


def test_what_a_flow_returns_stays_as_it_is_in_json(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def echo(self: Any, episode: Any, example: Any) -> dict[str, Any]:
        draft = await episode.call("draft", question=example.question)
        episode.reward("sum", float(len(draft)))
        return {"text": example.question, "good": "Yes"}

    monkeypatch.setattr(load_registry().task("letters"), "run", echo)
    arguments = ("letters", "--data", str(data))
    assert run("predict", *arguments, "--out", "out.jsonl").code == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [line["text"] for line in lines] == [f"{TEXT} {n}" for n in range(4)]
    assert run("evaluate", "letters", "out.jsonl", "--data", str(data)).code == 0
    played = run("play", *arguments, "--json")
    assert (played.code, json.loads(played.out)["result"]["text"]) == (0, f"{TEXT} 0")
    assert run("train", *arguments, "--name", "b").code == 0
    with RunReader(Path("runs/b/store.sqlite")) as reader:
        assert reader.episode(0).result["text"].startswith(TEXT)


def test_json_for_a_terminal_of_other_characters_is_json(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_text(json.dumps({"id": "é", "question": "\U0001f600 é \ud800"}))
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    assert run("play", "letters", "--data", str(data), "--json").code == 0
    sys.stdout.flush()
    assert json.loads(printed.getvalue())["example"]["id"] == "é"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]
