"""``flowtune train`` refuses a flow that cannot learn, or would learn something wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.odd_task import ODD
from support.runs_compared import press_ctrl_c

Run = Callable[..., Any]


@pytest.fixture
def train(letters: Site, run: Run) -> Run:
    letters.install("odd", ODD)
    return lambda *arguments: run("train", "odd", *arguments)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("uuid", "- node 'write' is shown something else when the flow is played again ("),
        ("reward", "the flow never reported the reward of node 'write', 'summ'. Did you mean"),
    ],
)
def test_a_broken_flow_is_refused_and_leaves_no_run(train: Run, wrong: str, said: str) -> None:
    settings = ["--set", f"tasks.odd.wrong={wrong}"]
    if wrong == "reward":
        settings = ["--set", "tasks.odd.nodes.write.reward=summ"]
    done = train("--name", "a", *settings)
    assert done.code == 2
    assert "flowtune: error: training is refused after the first mini-batch" in done.err
    assert said in done.err
    assert "--resume" not in done.err
    assert list(Path("runs").iterdir()) == []
    mended = train("--name", "a", "--limit", "2")
    assert mended.code == 0


def test_a_run_that_was_stopped_before_it_began_is_refused_and_kept(
    train: Run, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--set", "tasks.odd.wrong=uuid", "--set", "engine.in_flight=1")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 1)
        assert train("--name", "a", *settings).code == 130
    done = run("train", "--resume", "a")
    assert done.code == 2
    assert "training is refused" in done.err
    assert Path("runs/a/run.json").is_file()


def test_a_task_whose_nodes_cannot_learn_is_refused_before_the_model_is_loaded(train: Run) -> None:
    done = train("--set", "tasks.odd.nodes.write.learn=nothing")
    assert done.code == 2
    assert "no node of task 'odd' can learn" in done.err
    assert "loading" not in done.err
    assert not Path("runs").exists()


def test_what_may_be_meant_is_told_at_once(train: Run) -> None:
    done = train("--limit", "2", "--set", "tasks.odd.nodes.write.reward=quality")
    assert done.code == 0
    said = "the flow never reported the reward of node 'write', 'quality'. It reported: sum"
    assert f"flowtune: warning: {said}. Call episode.reward('quality', ...)" in done.err
