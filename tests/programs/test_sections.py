"""A task is added to a settings file, and all else in it stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.layers import tomllib
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.programs.sections import values_to_write, with_section

VALUES: dict[str, Any] = {"function": "flow.py:run", "gold": ("a", "b")}
NODES: dict[str, Any] = {"draft": {"reward": "score"}, "write": {}}
ADDED = """[tasks.flow]
function = "flow.py:run"
gold = ["a", "b"]

[tasks.flow.nodes.draft]
reward = "score"

[tasks.flow.nodes.write]
"""


def add(old: str) -> str:
    return with_section(old.encode(), "flow", VALUES, NODES).decode()


def test_a_new_file() -> None:
    assert add("") == ADDED


@pytest.mark.parametrize("end", ["\n", ""])
def test_text_and_comments_stay(end: str) -> None:
    old = f"\ufeff# mine\r\n[training]\r\nseed = 7 # lucky{end}"
    assert add(old) == old + ("\n" if end else "\n\n") + ADDED


def test_a_table_that_is_there_gets_what_it_lacks() -> None:
    old = '[tasks . "flow"]  # of mine\ngold = ["a"]\n\n[engine]\neffects = 3\n'
    new = add(old)
    assert new.startswith('[tasks . "flow"]  # of mine\nfunction = "flow.py:run"\ngold = ["a"]\n')
    found = tomllib.loads(new)
    assert found["tasks"]["flow"] == {
        "function": "flow.py:run",
        "gold": ["a"],
        "nodes": {"draft": {"reward": "score"}, "write": {}},
    }
    assert found["engine"] == {"effects": 3}


@pytest.mark.parametrize(
    "old",
    ["tasks = {other = {x = 1}}\n", "[tasks]\nflow = {gold = ['a']}\n", "tasks.flow.gold=[]\n"],
)
def test_what_cannot_be_added_to_is_shown(old: str) -> None:
    with pytest.raises(UsageError, match=r"Add this by hand:\n\[tasks\.flow\]\nfunction = "):
        add(old)


def test_paths_are_relative_where_they_can_be(tmp_path: Path) -> None:
    values = {
        "function": str(tmp_path / "a" / "flow.py:run"),
        "reward": "/else/rewards.py:score",
        "data": "hf://owner/name",
        "program": None,
        "directory": "/else",
        "gold": [],
        "processes": 3,
        "timeout": 600.0,
        "nodes": {},
    }
    assert values_to_write(values, tmp_path) == {
        "function": "a/flow.py:run",
        "reward": "/else/rewards.py:score",
        "data": "hf://owner/name",
        "processes": 3,
    }
    own = {"program": "python flow.py", "directory": str(tmp_path)}
    assert values_to_write(own, tmp_path) == {"program": "python flow.py"}
    own["directory"] = str(tmp_path / "sub")
    assert values_to_write(own, tmp_path) == {"program": "python flow.py", "directory": "sub"}
