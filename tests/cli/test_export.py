"""``flowtune export``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site

Run = Callable[..., Any]


@pytest.fixture
def trained(letters: Site, run: Run) -> str:
    assert run("train", "letters").code == 0
    return "letters-001"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_preferences_episodes_and_adapters_of_a_trained_run(trained: str, run: Run) -> None:
    given = ["--preferences", "p.jsonl", "--episodes", "e.jsonl", "--adapters", "a"]
    done = run("export", trained, *given, "--json")
    assert done.code == 0, done.err
    written = json.loads(done.out)
    preferences, episodes = lines(Path("p.jsonl")), lines(Path("e.jsonl"))
    assert written["preferences"]["lines"] == len(preferences) > 0
    assert written["preferences"]["form"] == "conversations"
    assert {line["node"] for line in preferences} == {"draft", "write"}
    write = next(line for line in preferences if line["node"] == "write")
    assert [message["role"] for message in write["prompt"]] == ["system", "user"]
    assert write["prompt"][0]["content"] == "Briefly."
    assert write["prompt"][1]["content"].startswith("Write ")
    assert len(episodes) == 8
    made = [(p["step"], p["chosen"]) for e in episodes for p in e["preferences"]]
    assert made == [(line["step"], line["chosen"][0]["content"]) for line in preferences]
    assert written["adapters"]["episodes"] == 8
    assert Path("a/draft/adapter_model.safetensors").is_file()
    assert not Path("a/reference-of-draft").exists()

    assert run("export", trained, "--adapters", "b").out.startswith("vllm serve ")
    done = run("export", trained, "--preferences", "q.jsonl", "--node", "draft")
    assert {line["node"] for line in lines(Path("q.jsonl"))} == {"draft"}
    assert "as conversations" in done.err


def test_a_frozen_prefix_is_written_and_noted(letters: Site, run: Run) -> None:
    prompt = """{user = "Draft", frozen_prefix = "On {question}. ", chat = false}"""
    change = f"tasks.letters.nodes.draft.prompt={prompt}"
    assert run("train", "letters", "--limit", "2", "--set", change).code == 0
    done = run("export", "letters-001", "--adapters", "a", "--json")
    nodes = json.loads(done.out)["adapters"]["nodes"]
    assert nodes["draft"]["prompt"]["frozen_prefix"] == "On {question}. "
    assert nodes["draft"]["context_without_adapter"]
    assert not nodes["write"]["context_without_adapter"]
    assert "'draft' reads a frozen prefix" in done.err
    assert "'write' reads a frozen prefix" not in done.err


def test_settings_that_are_others_now(trained: str, run: Run) -> None:
    change = ["--set", "tasks.letters.nodes.draft.max_new_tokens=3"]
    done = run("export", trained, "--adapters", "a", *change)
    assert done.code == 0
    assert "differs from the run: tasks.letters.nodes.draft.max_new_tokens" in done.err
    assert json.loads(Path("a/flow.json").read_text())["nodes"]["draft"]["max_new_tokens"] == 3


def test_a_task_that_is_not_installed(trained: str, run: Run, letters: Site) -> None:
    shutil.rmtree(letters.path / "letters_dist-1.0.dist-info")
    done = run("export", trained, "--adapters", "a")
    assert (done.code, Path("a").exists()) == (2, False)
    assert "letters" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "choose what to export"),
        (["--episodes", "e", "--node", "draft"], "--node needs --preferences"),
        (["--preferences", "p", "--node", "drfat"], "Did you mean 'draft'?"),
        (["--preferences", "there"], "--overwrite"),
        (["--episodes", "there"], "--overwrite"),
        (["--adapters", "there"], "is not a directory"),
        (["--adapters", "."], "--overwrite"),
        (["--preferences", "p", "--adapters", "there"], "is not a directory"),
        (["--adapters", ".", "--overwrite"], "it has no flow.json"),
    ],
)
def test_wrong_use(trained: str, run: Run, arguments: list[str], said: str) -> None:
    Path("there").write_text("mine")
    done = run("export", trained, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert Path("there").read_text() == "mine"
    assert not Path("p").exists()


def test_a_run_that_is_not_there(run: Run) -> None:
    done = run("export", "nothing", "--episodes", "e")
    assert done.code == 2
    assert "unknown run 'nothing'" in done.err
