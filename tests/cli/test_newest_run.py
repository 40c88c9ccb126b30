"""``flowtune predict --NAME`` alone: the newest run of a task that the post-processor is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.scored_task import SCORED

Run = Callable[..., Any]
BY_FILE = """
from flowtune_cli import PostProcessor

class Other(PostProcessor):
    name = "other"
    tasks = ("letters",)

    def apply(self, task, examples, lines, note):
        return lines

@hookimpl(specname="register_postprocessors")
def more(register):
    register(Other)
"""


@pytest.fixture
def scored(letters: Site) -> Site:
    letters.install("scored", SCORED + BY_FILE)
    return letters


def test_the_newest_run_is_meant(scored: Site, run: Run, tmp_path: Path) -> None:
    for name, task in (("old", "scored"), ("new", "scored"), ("other", "letters")):
        assert run("train", task, "--limit", "2", "--name", name).code == 0
    info = tmp_path / "runs/old/run.json"
    info.write_text(info.read_text().replace('"created": "2', '"created": "1'))
    done = run("predict", "--longest", "--json")
    assert done.code == 0
    out = tmp_path / "new@2-test.jsonl"
    assert f"predicting with the newest run, {tmp_path / 'runs/new'}, on split 'test'" in done.err
    assert f"wrote 5 predictions to {out}\n" in done.err
    assert len(out.read_text().splitlines()) == 5
    summary = json.loads(done.out)
    assert summary["played_by"].startswith("run new of ")
    del summary["played_by"]
    assert summary == {
        "task": "scored",
        "run": "new",
        "checkpoint": 2,
        "split": "test",
        "out": str(out),
        "examples": 5,
        "lines": 5,
        "failed": [],
    }
    again = run("predict", "--longest")
    assert again.code == 2
    assert "exists: choose another name, or use --overwrite" in again.err
    assert run("predict", "--longest", "--overwrite", "--split", "train", "--limit", "1").code == 0
    assert Path("new@2-train.jsonl").is_file()


def test_what_is_missing_is_said(scored: Site, run: Run, tmp_path: Path) -> None:
    none = run("predict", "--longest")
    assert none.code == 2
    assert "--longest is for scored, and no run of it is there, in" in none.err
    assert f"in {tmp_path / 'runs'}. Train one with 'flowtune train scored'" in none.err
    assert "say which task" in run("predict").err
    different = run("predict", "--longest", "--other")
    assert "--longest and --other are for different tasks" in different.err
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "x", "question": "what", "gold": 1}\n')
    assert run("train", "scored", "--data", str(data)).code == 0
    file = run("predict", "--longest")
    assert file.code == 2
    assert f"was trained on the file {data}: say what to predict, by --data FILE" in file.err
    assert run("predict", "--longest", "--data", str(data)).code == 0
    assert len(Path("scored-001@1-test.jsonl").read_text().splitlines()) == 1
    for checkpoint in (tmp_path / "runs/scored-001/checkpoints").iterdir():
        checkpoint.rename(tmp_path / f"gone-{checkpoint.name}")
    assert "no run of it has a checkpoint yet: 'scored-001'" in run("predict", "--longest").err


def test_a_run_says_the_task_and_a_model_can_be_named(
    scored: Site, run: Run, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", "letters", "--limit", "2", "--name", "a").code == 0
    few = ("--limit", "1")
    assert run("predict", "--run", "a", *few).code == 0
    assert Path("a@2-train.jsonl").is_file()
    assert run("play", "--run", "a@2", "--json").code == 0
    assert json.loads(run("check", "--run", "a", *few, "--json").out)["task"] == "letters"
    assert run("eval", "--run", "a", *few, "--json").code == 0
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", "no/such-model")
    model = ("--model", str(tiny_model_dir))
    played = run("predict", "letters", *few, *model, "--json")
    assert played.code == 0
    summary = json.loads(played.out)
    assert (summary["run"], summary["checkpoint"]) == (None, None)
    assert summary["out"] == str(tmp_path / "letters-untrained-train.jsonl")
    assert run("play", "letters", *model).code == 0
    assert run("eval", "letters", "--baseline", *few, *model).code == 0
    assert run("check", "letters", *few, *model).code in (0, 1)
    for command in ("play", "predict", "check", "eval"):
        other = run(command, "--run", "a", "--model", "some/other")
        assert other.code == 2
        assert 'model.name = "' in other.err
        assert 'and "some/other" now (--model)' in other.err
    assert "say which task" in run("eval", "--baseline").err


def test_examples_that_failed_are_in_the_summary(scored: Site, run: Run) -> None:
    done = run("predict", "letters", "--set", "tasks.letters.fail_at=train-3", "--json")
    assert done.code == 1
    summary = json.loads(done.out)
    assert (summary["out"], summary["lines"], summary["failed"]) == (None, 0, ["train-3"])
    assert "the flow failed for 1 of" in done.err


def test_post_processing_says_what_it_did(scored: Site, run: Run, tmp_path: Path) -> None:
    arguments = ("scored", "--split", "test", "--limit", "2", "--out")
    assert run("predict", *arguments, "a.jsonl", "--scores").code == 0
    done = run("postprocess", "scored", "a.jsonl", *arguments[1:], "b.jsonl", "--rank", "--json")
    out = str(tmp_path / "b.jsonl")
    assert json.loads(done.out) == {"task": "scored", "out": out, "lines": 2}
    for command in (("predict", "scored"), ("postprocess", "scored", "a.jsonl")):
        both = run(*command, "--out", "/dev/stdout", "--json")
        assert (both.code, both.out) == (2, "")
        assert "leave one out" in both.err
