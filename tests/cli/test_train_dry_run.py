"""``flowtune train --dry-run``, and what a run has taken in the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site

Run = Callable[..., Any]


@pytest.fixture
def train(letters: Site, run: Run) -> Run:
    return lambda *arguments: run("train", *arguments)


def test_it_says_what_to_expect_and_makes_no_run(train: Run) -> None:
    done = train("letters", "--dry-run", "--set=training.evaluate.every=4")
    assert done.code == 0, done.err
    rows = dict(line.split("\t", 1) for line in done.out.splitlines())
    assert rows["examples"] == "8"
    assert re.fullmatch(r"about [1-9]\d*", rows["node calls"])
    assert re.fullmatch(r"about .*, .* of it for evaluations", rows["time"])
    assert re.fullmatch(r"at least \d\.\d GB", rows["memory"])
    assert "Nothing was kept" in done.err
    assert not Path("runs").exists()


def test_as_json(train: Run) -> None:
    done = train("letters", "--dry-run", "--json", "--set=training.passes=2")
    found = json.loads(done.out)
    assert (found["examples"], found["episodes"]) == (8, 16)
    assert found["seconds"] > 0
    assert all(node["calls"] > 0 and node["read"] > 0 for node in found["nodes"])


def test_a_resumed_run_has_no_dry_run(train: Run) -> None:
    train("letters", "--name", "a")
    done = train("--resume", "a", "--dry-run")
    assert (done.code, "--dry-run is for a new run" in done.err) == (2, True)


def test_it_begins_with_what_another_run_has_learned(train: Run) -> None:
    train("letters", "--name", "a")
    done = train("--from", "a", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["episodes"] == 8
    assert [path.name for path in Path("runs").iterdir()] == ["a"]


def test_a_run_says_what_it_took_and_adds_up_over_its_processes(train: Run) -> None:
    done = train("letters", "--name", "a", "--json", "--limit", "4")
    usage = json.loads(done.out)["usage"]
    assert re.search(r"it took .* of processor time\), .* of memory, .* tokens read", done.err)
    assert usage == RunDirectory(Path("runs/a")).info.usage.to_json()
    assert usage["processor_seconds"] > 0 < usage["peak_memory"]
    again = train("--resume", "a", "--json", "--limit", "8")
    assert json.loads(again.out)["usage"]["seconds"] > 2 * usage["seconds"]
