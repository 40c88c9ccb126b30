"""``flowtune ls``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import MODEL, Site

Run = Callable[..., Any]


def test_every_list_has_a_header(run: Run) -> None:
    assert run("ls", "tasks").out.splitlines()[0] == "name\tplugin\tdistribution\tsummary"
    assert run("ls", "rewards").out.startswith("name\tplugin\tdistribution\tkind\tsummary\n")


def test_tasks(run: Run) -> None:
    assert run("ls", "tasks").rows == [
        ["hop-qa", "hop", "hop-dist", "questions in hops"],
        ["plain", "hop", "hop-dist", ""],
    ]
    [first, _] = json.loads(run("ls", "tasks", "--json").out)
    assert first == {
        "name": "hop-qa",
        "plugin": "hop",
        "distribution": "hop-dist",
        "summary": "questions in hops",
    }


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("nodes", ["generate", "builtin", "flowtune", "Generates text greedily"]),
        ("explorations", ["multi_sample", "builtin", "flowtune", "Samples the alternatives"]),
        ("rewards", ["token_f1", "builtin", "flowtune", "reward", "The F1 of"]),
        ("rewards", ["llm_judge", "builtin", "flowtune", "evaluator", "Asks the base model"]),
        ("optimizers", ["cocob", "builtin", "flowtune", "Coin betting"]),
    ],
)
def test_what_flowtune_itself_brings(run: Run, kind: str, row: list[str]) -> None:
    found = next(r for r in run("ls", kind).rows if r[0] == row[0])
    assert found[:-1] == row[:-1]
    assert found[-1].startswith(row[-1])


def test_an_unknown_kind(run: Run) -> None:
    done = run("ls", "task")
    assert done.code == 2
    assert "unknown kind of thing 'task'. Did you mean 'tasks'?" in done.err


def test_problems_are_noted_beside_the_data(site: Site, run: Run) -> None:
    site.install("broken", "1 / 0")
    done = run("ls", "tasks")
    assert done.code == 0
    assert len(done.rows) == 2
    assert "plugin 'broken' (broken-dist 1.0) has a problem" in done.err


def test_nothing_to_list_is_said_on_stderr(run: Run) -> None:
    done = run("ls", "runs")
    assert (done.code, done.out) == (0, "")
    assert "there are no runs" in done.err
    assert run("ls", "runs", "--json").out == "[]\n"


def test_runs_are_where_the_settings_say(run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "elsewhere"
    RunDirectory.create(runs, "first", task="hop-qa", model="m", settings={}).update(
        state="finished", episodes=7
    )
    (runs / "torn").mkdir()
    (runs / "torn" / "run.json").write_text("{")
    done = run("ls", "runs", "--set", f"run.directory={runs}")
    first = next(row for row in done.rows if row[0] == "first")
    assert first[1:4] == ["hop-qa", "finished", "7"]
    assert "run 'torn' cannot be read" in done.err
    (tmp_path / "flowtune.toml").write_text('[run]\ndirectory = "elsewhere"\n')
    listed = json.loads(run("ls", "runs", "--json").out)
    assert {r["name"]: Path(r["path"]).name for r in listed} == {"first": "first", "torn": "torn"}


def test_models(site: Site, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    assert run("ls", "models").err == "flowtune: note: there are no models\n"
    site.install("models", MODEL.format(directory=tmp_path / "small"))
    missing, small = run("ls", "models").rows
    assert missing == [
        "missing",
        "models",
        "a small model; not here: flowtune models fetch missing",
    ]
    assert small == ["small", "models", "a small model; not here: flowtune models fetch small"]
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    [_, small] = run("ls", "models").rows
    assert small[2] == f"a small model; in {tmp_path / 'small'}"
    snapshot = hub / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    [_, _, other] = run("ls", "models").rows
    assert other[:2] == ["some/model", "hub"]
    shown = json.loads(run("ls", "models", "--json").out)
    assert [(row["name"], row["ready"]) for row in shown] == [
        ("missing", False),
        ("small", True),
        ("some/model", True),
    ]


def test_a_plugin_whose_models_failed_is_noted(site: Site, run: Run) -> None:
    site.install("broken", "1 / 0")
    assert "plugin 'broken' (broken-dist 1.0) has a problem" in run("ls", "models").err


def test_the_programs_of_the_settings_file_are_tasks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "flowtune.toml").write_text(
        '[tasks.flow]\nfunction = "flow.py:run"\n[tasks.plain.nodes.best]\n'
        '[tasks.script]\nprogram = "python x.py"\n'
    )
    assert run("ls", "tasks").rows[2:] == [
        ["flow", "flowtune.toml", "", "flow.py:run"],
        ["script", "flowtune.toml", "", "python x.py"],
    ]
