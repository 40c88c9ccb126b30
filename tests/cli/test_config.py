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
    assert rows["adapter.rank"] == ["4", "flowtune.toml:2"]
    assert rows["model.name"] == ['"m"', "environment FLOWTUNE_MODEL__NAME"]
    assert rows["model.revision"] == ['""', "default"]
    assert rows["learning.optimizer_options"] == ["{}", "default"]
    keys = [f"{s}.{k}" for s, v in Settings().model_dump().items() if s != "tasks" for k in v]
    assert list(rows) == keys


def test_a_task(run: Run) -> None:
    rows = {r[0]: r[1:] for r in run("config", "hop-qa", "--set", "tasks.hop-qa.hops=3").rows}
    assert rows["training.batch_size"] == ["4", "task hop-qa"]
    assert rows["tasks.hop-qa.hops"] == ["3", "--set"]
    assert rows["tasks.hop-qa.nodes.query.max_new_tokens"] == ["60", "task hop-qa"]
    assert rows["tasks.hop-qa.nodes.query.prompt.system"] == ['"Be brief."', "task hop-qa"]
    assert rows["tasks.hop-qa.nodes.query.exploration.penalty"] == ["2.0", "task hop-qa"]


def test_json(run: Run) -> None:
    shown = json.loads(run("config", "hop-qa", "--json").out)
    assert shown["settings"]["training"]["batch_size"] == 4
    assert shown["settings"]["tasks"]["hop-qa"]["nodes"]["stop"]["labels"] == ["Yes", "No"]
    assert shown["origins"]["training.batch_size"] == "task hop-qa"


def test_another_task_in_the_file_is_shown_as_it_stands(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[tasks.plain.nodes.best]\nprompt.user = 'x'\nlabels = ['a', 'b']\n")
    rows = {row[0]: row[1:] for row in run("config", "--config", str(file)).rows}
    assert rows["tasks.plain.nodes.best.labels"] == ['["a", "b"]', f"{file}:3"]


def test_the_template(run: Run) -> None:
    assert run("config", "--template").out == template()


def test_wrong_settings(run: Run) -> None:
    done = run("config", "--set", "training.sed=7")
    assert done.code == 2
    assert "flowtune: error: --set: unknown setting 'training.sed'. Did you mean" in done.err
