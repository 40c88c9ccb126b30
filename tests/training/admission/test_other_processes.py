"""What differs from process to process, and from day to day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.task import Task
from flowtune_cli.registry import load_registry
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.runtime.second_play import Recorded
from flowtune_cli.testing import ScriptedEngine, play
from flowtune_cli.training.admission import other_processes
from flowtune_cli.training.admission.finding import Finding
from flowtune_cli.training.admission.other_processes import elsewhere_findings
from support.installed_plugins import Site
from support.odd_task import ODD


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Task]:
    """The task "odd", installed."""
    Site(tmp_path, monkeypatch).install("odd", ODD)
    return load_registry().task("odd")


def found(
    task_class: Any, wrong: str, known: Sequence[Finding] = (), **changes: Any
) -> list[Finding]:
    task = task_class(task_class.Settings(wrong=wrong))
    examples = list(task.examples(None, "train"))[:2]
    recorded = [Recorded.of(play(task, ScriptedEngine(), example)) for example in examples]
    recorded = [replace(each, **changes) for each in recorded]
    settings = {"tasks": {"odd": {"wrong": wrong}}}
    return elsewhere_findings(task, settings, recorded, NO_LIMITS, known)


def test_a_flow_that_is_the_same_everywhere(odd: Any) -> None:
    assert found(odd, "") == []


@pytest.mark.parametrize("wrong", ["set", "hash"])
def test_what_differs_in_another_process(odd: Any, wrong: str) -> None:
    first, *others = found(odd, wrong)
    assert [finding.example for finding in (first, *others)] == ["e0", "e1"]
    assert (first.code, first.severity, first.node) == ("request-differs", "error", "write")
    assert first.message.endswith("shown something else when the flow is played in another process")
    assert "Sort what comes from a set" in first.advice
    assert "module_" in str(first.place)


@pytest.mark.parametrize("wrong", ["datetime", "date", "strftime", "year"])
def test_what_differs_on_another_day(odd: Any, wrong: str) -> None:
    first, *_ = found(odd, wrong)
    assert first.message.endswith("shown something else when the flow is played on another day")
    assert "Take the date from the example" in first.advice


def test_what_was_found_before_is_not_found_again(odd: Any) -> None:
    first = found(odd, "set")
    assert found(odd, "set", known=first) == []


def test_what_cannot_be_pickled_is_said(odd: Any) -> None:
    [finding] = found(odd, "set", effects={("effect", "f", "[]", "0"): lambda: None})
    assert (finding.code, finding.severity) == ("not-replayed-elsewhere", "note")
    assert "cannot be pickled" in finding.message


def test_a_process_that_fails_is_said(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes, "PROCESSES", 1)
    task = odd(odd.Settings())
    recorded = [Recorded.of(play(task, ScriptedEngine(), next(iter(task.examples(None, "train")))))]
    [finding] = elsewhere_findings(task, {"tasks": {"odd": {"wrong": 3}}}, recorded, NO_LIMITS)
    assert finding.severity == "note"
    assert "the process ended with 1: " in finding.message
