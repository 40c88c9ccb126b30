"""Labels that stand in the open, as far as settings and examples tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.resolve import resolve
from flowtune_cli.config.template import toml_value
from flowtune_cli.flow.example import Example
from flowtune_cli.programs.find import find_task
from flowtune_cli.registry import load_registry
from flowtune_cli.training.admission.finding import Finding
from flowtune_cli.training.admission.labels import label_findings
from support.fake_engine import FlowTask
from support.program_files import forget_modules

from . import broken_flows as flows
from .broken_flows import findings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.py").write_text("async def run(example, client): ...")
    (tmp_path / "rewards.py").write_text("def score(example, result): return 1.0")
    yield tmp_path
    forget_modules(tmp_path)


def of_program(**values: Any) -> list[Finding]:
    overrides = [f"tasks.flow.{key}={toml_value(value)}" for key, value in values.items()]
    registry = load_registry()
    found = find_task(registry, "flow.py:run", config=None, environ={}, overrides=overrides)
    resolved = resolve(
        found.task_class, environ={}, overrides=overrides, flags=found.flags, registry=registry
    )
    return list(label_findings(resolved.make_task(), []))


TARGET: dict[str, Any] = {"nodes.a.learn": "supervised", "nodes.a.target": "{team}!"}


@pytest.mark.usefixtures("folder")
def test_a_target_that_the_program_is_shown() -> None:
    [finding] = of_program(gold=["other"], **TARGET)
    assert (finding.code, finding.severity, finding.node) == ("target-shown", "warning", "a")
    assert "the target of node 'a' is made of 'team', which the program is shown" in finding.message
    assert of_program(gold=["team"], **TARGET) == []


@pytest.mark.usefixtures("folder")
def test_a_reward_without_gold() -> None:
    [finding] = of_program(reward="rewards.py:score", **{"nodes.a.alternatives": 1})
    assert (finding.code, finding.severity) == ("no-gold", "note")
    assert "shown all that its reward 'score' sees" in finding.message
    assert of_program(reward="rewards.py:score", gold=["team"]) == []


def of_examples(*pairs: tuple[Any, Any]) -> list[Finding]:
    examples = [Example(f"e{n}", inputs, gold) for n, (inputs, gold) in enumerate(pairs)]
    return list(label_findings(FlowTask([], flows.healthy), examples))


def test_an_input_that_is_the_label() -> None:
    [finding] = of_examples(
        ({"q": "?", "label": "a"}, {"team": "a"}), ({"q": "?", "label": "b"}, {"team": "b"})
    )
    assert (finding.code, finding.severity) == ("gold-among-inputs", "warning")
    assert finding.message.startswith("the input 'label' is the same as the label 'team' at all of")
    [finding] = of_examples(({"copy": 1}, 1), ({"copy": 2}, 2))
    assert "the input 'copy' is the same as the label at all of 2" in finding.message


def test_an_input_that_is_the_label_by_chance() -> None:
    assert of_examples(({"q": "a"}, "a")) == []
    assert of_examples(({"q": "a"}, "a"), ({"q": "c"}, "b")) == []
    assert of_examples(({"n": 1}, 1), ({"n": 1}, 1)) == []
    assert of_examples(({"n": 1}, True), ({"n": 0}, False)) == []


def test_the_check_looks_for_it() -> None:
    examples = [Example(f"e{n}", {"question": f"gold {n}"}, gold=f"gold {n}") for n in range(3)]
    assert [f.code for f in findings(flows.healthy, examples=examples)] == ["gold-among-inputs"]
