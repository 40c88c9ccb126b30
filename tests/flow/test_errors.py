"""Errors for people: exit codes and suggestions."""

from __future__ import annotations

from flowtune_cli.flow.errors import DataError, FlowtuneError, ReplayError, UsageError, unknown_name


def test_exit_codes() -> None:
    assert [e.exit_code for e in (FlowtuneError, ReplayError)] == [1, 1]
    assert [e.exit_code for e in (UsageError, DataError)] == [2, 2]


def test_unknown_name_suggests_the_nearest() -> None:
    error = unknown_name("node", "qery", ["answer", "query"])
    assert isinstance(error, UsageError)
    assert str(error) == "unknown node 'qery'. Did you mean 'query'? Known: answer, query."


def test_unknown_name_far_from_all() -> None:
    assert str(unknown_name("task", "zzz", ["b", "a"])) == "unknown task 'zzz'. Known: a, b."
    assert str(unknown_name("task", "zzz", [])) == "unknown task 'zzz'. Known: none."
