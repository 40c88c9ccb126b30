"""``flowtune check``: what it prints, its JSON and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.cli.check import excerpts
from support.installed_plugins import Site
from support.odd_task import ODD

Run = Callable[..., Any]


@pytest.fixture
def check(letters: Site, run: Run) -> Run:
    letters.install("odd", ODD)
    return lambda task, *arguments: run("check", task, *arguments)


def test_a_healthy_flow(check: Run) -> None:
    done = check("letters", "--limit", "2", "--json")
    assert done.code == 0
    said = json.loads(done.out)
    assert (said["task"], said["examples"]) == ("letters", ["train-0", "train-1"])
    assert said["rollouts"] > 0
    assert said["played_by"].startswith("untrained ")
    # The tiny model never ends.
    assert {each["code"] for each in said["findings"]} <= {"output-truncated", "only-ties"}
    assert "played 2 examples and " in done.err


def test_findings_are_printed_with_their_place_and_what_to_do(check: Run) -> None:
    done = check("odd", "--set", "tasks.odd.wrong=uuid", "--limit", "2")
    assert done.code == 1
    first, code, rest = done.out.partition("  request-differs\n")
    assert (first, code) == ("error", "  request-differs\n")
    lines = rest.splitlines()
    assert lines[0] == "  node 'write' is shown something else when the flow is played again"
    assert lines[1].startswith("  at: example e0; ")
    assert ".py, line " in lines[1]
    assert lines[1].endswith("; found 2 times")
    assert lines[2].startswith("  before: [user]\\nWrite [")
    assert lines[3].startswith("  now   : [user]\\nWrite [")
    assert lines[4].startswith("  do: A flow must depend on nothing but")
    assert "1 error" in done.err


def test_what_differs_in_other_processes_is_found_by_the_command(check: Run) -> None:
    for wrong, when in (("set", "in another process"), ("datetime", "on another day")):
        done = check("odd", "--set", f"tasks.odd.wrong={wrong}", "--json")
        [finding] = [f for f in json.loads(done.out)["findings"] if f["code"] == "request-differs"]
        assert done.code == 1
        assert finding["message"].endswith(when)
        assert finding["count"] == 3


def test_a_flow_that_cannot_be_played(check: Run) -> None:
    done = check("odd", "--set", "tasks.odd.nodes.write.prompt.user=Write {other}", "--json")
    assert done.code == 1
    [finding] = json.loads(done.out)["findings"]
    assert finding["code"] == "cannot-be-played"
    assert "asks for the field '{other}'" in finding["message"]


def test_a_flow_that_does_not_end(check: Run) -> None:
    done = check("letters", "--limit", "1", "--set", "training.max_steps=2")
    assert done.code == 1
    assert done.out.startswith(
        "error  limit\n  the flow failed: FlowLimit: the flow made more than"
    )
    assert "  do: Let the flow end, or raise the limit.\n" in done.out


def test_a_run_is_checked_as_it_was_trained(check: Run, run: Run) -> None:
    run("train", "letters", "--name", "a", "--limit", "2")
    said = json.loads(check("letters", "--run", "a", "--limit", "1", "--json").out)
    assert said["played_by"].startswith("run a of ")


def test_texts_are_shown_where_they_differ() -> None:
    before, now = excerpts("It is Monday now.\nWrite.", "It is Sunday now.\nWrite.")
    assert (before, now) == ("It is [Monday] now.\\nWrite.", "It is [Sunday] now.\\nWrite.")
    before, now = excerpts("a " * 100 + "x", "a " * 100 + "x y")
    assert before.startswith("... a a ")
    assert (before[-6:], now[-8:]) == (" a [x]", " a [x y]")
    assert excerpts("same more", "same") == ("[same more]", "[same]")
    assert excerpts("a " + "b" * 500, "a c")[0] == f"a [{'b' * 160} ...]"
