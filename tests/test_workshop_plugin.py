"""A plugin that brings one of each thing, from the public API alone, runs on the real engine."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import flowtune_cli
from flowtune_cli import Outcome, Task
from flowtune_cli.cli.main import main
from flowtune_cli.registry import Registry, load_registry
from flowtune_cli.testing import TinySession, assert_replays, check_task, train
from support.installed_plugins import install_package
from support.markdown_blocks import REPOSITORY

PACKAGE = REPOSITORY / "tests" / "workshop_plugin"


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    site = tmp_path / "site"
    site.mkdir()
    install_package(PACKAGE, site, monkeypatch)
    return load_registry()


@pytest.fixture
def task(registry: Registry) -> Task:
    return registry.task("workshop")()


def test_the_registry_accepts_all_of_it(registry: Registry) -> None:
    [plugin] = [plugin for plugin in registry.plugins if plugin.name == "workshop"]
    brought = {(entry.kind, entry.name) for entry in registry.brought_by(plugin)}
    assert registry.problems == []
    assert brought == {
        ("task", "workshop"),
        ("node type", "vote"),
        ("node type", "pick"),
        ("exploration", "wild"),
        ("reward", "brevity"),
        ("evaluator", "likelier_answer"),
        ("optimizer", "momentum"),
        ("tracker", "jsonlines"),
        ("command", "questions"),
    }


def test_it_imports_nothing_but_the_public_api() -> None:
    imported = set()
    for file in PACKAGE.rglob("*.py"):
        for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(statement, ast.Import):
                assert not [a for a in statement.names if a.name.startswith("flowtune_cli")]
            elif isinstance(statement, ast.ImportFrom) and not statement.level:
                assert not (statement.module or "").startswith("flowtune_cli.")
                if statement.module == "flowtune_cli":
                    imported |= {alias.name for alias in statement.names}
    assert len(imported) > 20
    assert imported <= {*flowtune_cli.__all__}


def test_it_is_complete_and_replays(task: Task) -> None:
    check_task(task)
    assert_replays(task, task.examples(None, "train"))


def test_its_nodes_deviate_on_the_engine(task: Task, tiny_model_dir: Path) -> None:
    session = TinySession(task, tiny_model_dir)
    [trace] = session.deviate(list(task.examples(None, "dev")))
    assert trace.episode.failure is None
    assert {deviation.node for deviation in trace.deviations} == {"style", "answer"}
    judged = {d.outcome for d in trace.deviations if d.node == "answer"}
    assert judged <= {Outcome.ALTERNATIVE_BETTER, Outcome.GREEDY_BETTER}
    votes = trace.episode.steps[1].response.detail["votes"]
    assert sum(votes.values()) == 2 + 3  # two groups, and three samples to make four votes


def test_it_trains_with_its_optimizer_and_logs_to_its_tracker(
    task: Task, tiny_model_dir: Path, tmp_path: Path
) -> None:
    settings = {
        "adapter": {"rank": 2},
        "learning": {"optimizer": {"name": "momentum", "lr": 0.1}},
        "run": {"trackers": ["jsonlines"]},
        "training": {"batch_size": 2, "passes": 2},
    }
    run = tmp_path / "runs" / "first"
    metrics = train(task, list(task.examples(None, "train")), tiny_model_dir, run, settings)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["episodes"] for line in lines] == [2, 4, 6, 8]
    assert {line["task"] for line in lines} == {"workshop"}
    assert len({line["run"] for line in lines}) == 1
    for line, expected in zip(lines, metrics, strict=True):
        assert line.items() >= expected.items()
    assert any(line["node/answer/gradient_norm"] > 0 for line in lines)
    assert task.node("style").won, "the bandit has learned"


def test_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["questions", "--split", "dev"]) == 0
    assert capsys.readouterr().out == "What is a nail?\n"
    assert main(["questions", "--split", "test"]) == 1
    assert "no split 'test'" in capsys.readouterr().err
