"""Targets: what a node's calls should have answered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs.targets import NodeTarget
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.program_files import forget_modules

RECORD = {"category": "spam", "n": 7, "tags": ["a", "ü"], "nothing": None}


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget_modules(tmp_path)


def reported(text: str, calls: int = 1) -> Episode:
    target = NodeTarget("a", text)

    async def flow(episode: Episode, example: Example) -> None:
        for number in range(calls):
            await episode.call("a", messages=[{"role": "user", "content": f"call {number}"}])
        target.report(episode, RECORD)

    return run_play(FakeEngine(), FlowTask([Chat(name="a", learn="supervised")], flow))


def golds(episode: Episode) -> list[Any]:
    assert episode.failure is None
    return [(target.step, target.gold) for target in episode.targets]


def test_a_template_over_the_example_s_fields() -> None:
    assert golds(reported("{category}")) == [(0, "spam")]
    assert golds(reported("{n}: {tags} {{}}")) == [(0, '7: ["a", "ü"] {}')]
    assert golds(reported("{category}", calls=0)) == []
    assert golds(reported("{category} {nothing}")) == []


def test_a_template_is_for_one_call() -> None:
    failure = reported("{category}", calls=2).failure
    assert failure is not None
    assert "node 'a' was called 2 times, and its target '{category}' does not say" in failure.error


def test_a_field_that_is_not_there() -> None:
    failure = reported("{categry}").failure
    assert failure is not None
    assert "Did you mean 'category'?" in failure.error


def test_a_function_sees_each_call(tmp_path: Path) -> None:
    (tmp_path / "targets.py").write_text(
        "def right(example, request):\n"
        "    text = request['messages'][0]['content']\n"
        "    return None if text.endswith('1') else text + example['category']\n"
    )
    found = golds(reported(f"{tmp_path / 'targets.py'}:right", calls=3))
    assert found == [(0, "call 0spam"), (2, "call 2spam")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("spam", "is neither a template with a field"),
        ("{category", "is not a template"),
        ("{a.b}", "only names of fields can stand in braces"),
        ("{}", "only names of fields"),
        ("no/such.py:right", "there is no file"),
    ],
)
def test_what_is_no_target(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        NodeTarget("a", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("async def right(example, request): ...", "is an async function, which nobody awaits"),
        ("def right(request, example): ...", r"takes \(request, example\), and is called with"),
    ],
)
def test_what_is_no_function_of_a_target(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "targets.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        NodeTarget("a", f"{tmp_path / 'targets.py'}:right")


def test_what_a_function_does_to_the_example_stays_with_it(tmp_path: Path) -> None:
    (tmp_path / "targets.py").write_text(
        "def right(example, request): return example['tags'].pop()\n"
    )
    assert golds(reported(f"{tmp_path / 'targets.py'}:right", calls=2)) == [(0, "ü"), (1, "ü")]
