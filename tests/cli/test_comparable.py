"""Flows that are compared although they are given, or judged by, something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli import options
from flowtune_cli.cli.comparable import base_models, check_comparable
from flowtune_cli.cli.contestants import Contestant
from flowtune_cli.cli.examples import first_examples, read_examples
from flowtune_cli.cli.player import Player
from flowtune_cli.cli.programs import find, given
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.registry import load_registry
from support.installed_plugins import Site
from support.letters_task import LETTERS

WIDE = LETTERS.replace("size = 8 if", "size = 9 if self.settings.loud else 8 if")


def contestant(name: str, *overrides: str, task: str = "letters") -> Contestant:
    registry = load_registry()
    found = find(registry, task, given(), overrides=overrides)
    resolved = options.settings(
        registry, found.task_class, overrides=overrides, flags=dict(found.flags)
    )
    return Contestant(name, Player(registry, resolved, resolved.make_task(), None, name))


def check(*found: Contestant, data: Path | None = None) -> None:
    examples = first_examples(read_examples(found[0].player.task, data, "train"), None)
    check_comparable(found, examples, data, "train", None)


def test_what_differs_is_said(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("letters", LETTERS)
    loud = contestant(
        "b",
        "tasks.letters.loud=true",
        "model.dtype=bfloat16",
        "model.device=cpu",
        "training.seed=3",
        "tasks.letters.nodes.draft.evaluator=llm_judge",
    )
    check(contestant("a"), loud)
    assert (
        "warning: 'b' differs from 'a' in more than its training: model.dtype = \"auto\" in 'a',"
        " and \"bfloat16\" in 'b'; tasks.letters.loud = false in 'a', and true in 'b';"
        " tasks.letters.nodes.draft.evaluator = \"\" in 'a', and \"llm_judge\" in 'b'\n"
    ) in capsys.readouterr().err
    check(contestant("a"), contestant("c", "training.seed=3", "adapter.rank=3"))
    assert capsys.readouterr().err == ""


def test_other_examples_are_refused(site: Site) -> None:
    site.install("letters", WIDE)
    with pytest.raises(UsageError) as raised:
        check(contestant("a"), contestant("b", "tasks.letters.loud=true"))
    assert (
        "with the settings of 'b' the examples are others than with those of 'a': example"
        " 'train-8' was not there. Give them the same settings"
    ) in str(raised.value)


FLOW = """
def flow(example):
    return ""


def one(example, result):
    return 1


def other(example, result):
    return 0
"""


def program(name: str, **settings: str) -> Contestant:
    settings = {"function": '"flow.py:flow"', "gold": '["label"]', **settings}
    overrides = [f"tasks.own.{key}={value}" for key, value in settings.items()]
    return contestant(name, *overrides, task="own")


def test_programs_are_judged_and_shown_alike(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("flow.py").write_text(FLOW)
    data = Path("data.jsonl")
    data.write_text('{"question": "why", "label": "x", "hint": "y"}\n')
    first = program("a", reward='"flow.py:one"')
    check(first, program("b", reward='"flow.py:one"', processes="3"), data=data)
    assert capsys.readouterr().err == ""
    check(first, program("b", reward='"flow.py:other"'), data=data)
    assert "tasks.own.reward = " in capsys.readouterr().err
    # What one is not shown the other would be.
    with pytest.raises(UsageError, match="example '1' has other inputs and gold now"):
        check(first, program("b", reward='"flow.py:one"', gold='["label", "hint"]'), data=data)


def test_base_models_are_counted_once(site: Site) -> None:
    site.install("letters", LETTERS)
    found: list[Any] = [contestant(name, f"model.name={name[0]}") for name in ("x1", "y1", "x2")]
    assert base_models(found) == ["x", "y"]
