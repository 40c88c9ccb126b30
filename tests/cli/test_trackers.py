"""Trackers from the command line: listed, named by a run, brought by a plugin."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.event_files import scalars
from support.installed_plugins import Site

Run = Callable[..., Any]

PLUGIN = """
import json
from flowtune_cli import hookimpl

class Lines:
    '''Lines of JSON beside the run.'''

    def __init__(self, run):
        self.path = run.path / "lines.jsonl"
        self.seed = run.settings["training"]["seed"]

    def log(self, episodes, figures):
        with self.path.open("a") as file:
            print(json.dumps([self.seed, episodes, figures["reward/sum/overall"]]), file=file)

    def close(self):
        self.path.with_suffix(".closed").touch()

@hookimpl
def register_trackers(register):
    register("lines", Lines)
    register("not this", Lines)
    register("nor-this", 7)
"""


def test_what_there_is(run: Run, site: Site) -> None:
    site.install("lines", PLUGIN)
    rows = {row[0]: row[1:] for row in run("ls", "trackers").rows}
    assert set(rows) == {"lines", "tensorboard", "trackio", "wandb"}
    assert rows["lines"] == ["lines", "lines-dist", "Lines of JSON beside the run."]
    plugins = json.loads(run("plugins", "--json").out)
    [problems] = [plugin["problems"] for plugin in plugins if plugin["name"] == "lines"]
    assert len(problems) == 2
    assert "tracker 'nor-this' must be a function" in problems[1]["error"]


@pytest.mark.usefixtures("letters")
def test_a_run_names_its_trackers(run: Run, site: Site) -> None:
    site.install("lines", PLUGIN)
    given = ["--set", 'run.trackers=["tensorboard", "lines"]', "--set", "training.seed=7"]
    done = run("train", "letters", *given)
    assert done.code == 0, done.err
    path = Path("runs/letters-001")
    stored = json.loads(run("report", "letters-001", "--json").out)["runs"][0]["metrics"]["sum"]
    series = [(point["episodes"], point["overall"]) for point in stored["series"]]
    logged = [json.loads(line) for line in (path / "lines.jsonl").read_text().splitlines()]
    assert logged == [[7, *point] for point in series]
    assert (path / "lines.closed").exists()
    found = scalars(path)["reward/sum/overall"]
    assert found == [(episodes, pytest.approx(value)) for episodes, value in series]


@pytest.mark.usefixtures("letters")
def test_none_is_on_by_default(run: Run) -> None:
    assert run("train", "letters", "--limit", "2").code == 0
    names = {path.name for path in Path("runs/letters-001").iterdir()}
    assert names <= {
        "checkpoints",
        "examples.jsonl",
        "lock",
        "run.json",
        "run.json.lock",
        "settings.json",
        "store.sqlite",
        "store.sqlite-shm",
        "store.sqlite-wal",
    }
