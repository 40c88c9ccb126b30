"""``flowtune config``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.settings import Settings
from flowtune_cli.config.template import template

Run = Callable[..., Any]


def test_settings_with_their_origins(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flowtune.toml").write_text("[adapter]\nrank = 4\n")
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", "m")
    done = run("config", "--set", "training.seed=7")
    rows = {row[0]: row[1:] for row in done.rows}
    assert rows["training.seed"] == ["7", "--set"]
    assert rows["adapter.rank"] == ["4", "flowtune.toml"]
    assert rows["model.name"] == ['"m"', "environment FLOWTUNE_MODEL__NAME"]
    assert rows["model.revision"] == ['""', "default"]
    assert rows["learning.optimizer"] == ['"cocob"', "default"]
    sections = Settings().model_dump(exclude={"preset", "tasks"})
    nested = sections["training"].pop("evaluate")
    servers = sections["engine"].pop("vllm")
    later = {name: sections.pop(name) for name in ("training", "run")}
    sections |= {"engine.vllm": servers, "training": later["training"]}
    sections |= {"training.evaluate": nested, "run": later["run"]}
    assert list(rows) == ["preset", *(f"{s}.{k}" for s, values in sections.items() for k in values)]


def test_a_task(run: Run) -> None:
    rows = {r[0]: r[1:] for r in run("config", "hop-qa", "--set", "tasks.hop-qa.hops=3").rows}
    assert rows["training.batch_size"] == ["4", "task hop-qa"]
    assert rows["tasks.hop-qa.hops"] == ["3", "--set"]
    assert rows["tasks.hop-qa.nodes.query.max_new_tokens"] == ["60", "task hop-qa"]
    assert rows["tasks.hop-qa.nodes.query.prompt.system"] == ['"Be brief."', "task hop-qa"]
    exploration = '{name = "diverse_beam", penalty = 2.0}'
    assert rows["tasks.hop-qa.nodes.query.exploration"] == [exploration, "task hop-qa"]


def test_a_preset(run: Run) -> None:
    rows = {r[0]: r[1:] for r in run("config", "hop-qa", "--preset", "small").rows}
    assert rows["preset"] == ['"small"', "--preset"]
    assert rows["training.save_every"] == ["7", "preset small"]
    assert rows["tasks.hop-qa.nodes.query.optimizer"] == ["{lr = 0.001}", "preset small"]
    rows = {r[0]: r[1:] for r in run("config", "hop-qa", "--set", "model.name=little").rows}
    assert rows["preset"] == ['"small"', "default with little"]
    done = run("config", "hop-qa", "--preset", "smol")
    assert done.code == 2
    assert "--preset: unknown preset of task 'hop-qa' 'smol'. Did you mean 'small'?" in done.err


def test_json(run: Run) -> None:
    shown = json.loads(run("config", "hop-qa", "--json").out)
    assert shown["settings"]["training"]["batch_size"] == 4
    assert shown["settings"]["tasks"]["hop-qa"]["nodes"]["stop"]["labels"] == ["Yes", "No"]
    origin = {"layer": "task", "text": "task hop-qa"}
    assert shown["origins"]["training.batch_size"] == origin


def test_another_task_in_the_file_is_shown_as_it_stands(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[tasks.plain.nodes.best]\nprompt.user = 'x'\nlabels = ['a', 'b']\n")
    rows = {row[0]: row[1:] for row in run("config", "--config", str(file)).rows}
    assert rows["tasks.plain.nodes.best.labels"] == ['["a", "b"]', str(file)]


def test_the_template(run: Run) -> None:
    assert run("config", "--template").out == template()


def test_wrong_settings(run: Run) -> None:
    done = run("config", "--set", "training.sed=7")
    assert done.code == 2
    assert "flowtune: error: --set: unknown setting 'training.sed'. Did you mean" in done.err


@pytest.mark.parametrize("name", ["small", "none", "nonsense"])
def test_a_preset_without_a_task(run: Run, name: str) -> None:
    done = run("config", "--preset", name)
    assert (done.code, done.out) == (2, "")
    assert "--preset needs a TASK" in done.err
