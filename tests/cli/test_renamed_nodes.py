"""What ``--rename`` says."""

from __future__ import annotations

import pytest

from flowtune_cli.cli.renamed_nodes import fitting_tasks, parse_renamed, renamed_tasks
from flowtune_cli.flow.errors import UsageError


def test_names_by_the_new_one() -> None:
    assert parse_renamed(["old=new", " a = b "]) == {"new": "old", "b": "a"}
    assert parse_renamed(["a=b", "b=a"]) == {"b": "a", "a": "b"}


@pytest.mark.parametrize("options", [["a"], ["=b"], ["a="], ["a=b", "a=c"], ["a=c", "b=c"]])
def test_what_is_none(options: list[str]) -> None:
    with pytest.raises(UsageError, match="--rename"):
        parse_renamed(options)


def test_a_run_s_nodes_under_their_names_now() -> None:
    tasks = {"t": {"data": "x", "nodes": {"a": 1, "b": 2, "c": 3}}, "other": {"nodes": {"a": 4}}}
    named = renamed_tasks(tasks, "t", {"new": "a"})
    assert named == {**tasks, "t": {"data": "x", "nodes": {"new": 1, "b": 2, "c": 3}}}
    # A name that another node had: that one's own settings are left behind.
    assert renamed_tasks(tasks, "t", {"b": "a"})["t"]["nodes"] == {"b": 1, "c": 3}
    assert renamed_tasks(tasks, "t", {"b": "a", "a": "b"})["t"]["nodes"] == {"b": 1, "a": 2, "c": 3}
    assert fitting_tasks(tasks, "t", {}, ["c", "d"])["t"]["nodes"] == {"c": 3}
    assert renamed_tasks({}, "t", {"b": "a"}) == {}
