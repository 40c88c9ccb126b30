"""What commands say of examples and rollouts that are left out."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.cli.examples import first_examples, note_failed_rollouts, note_left_out
from flowtune_cli.flow.errors import DataError
from flowtune_cli.flow.example import Example
from support.fake_engine import FlowTask


def test_examples_of_one_id() -> None:
    examples = [Example(name) for name in "abcacdefgdefg"]
    with pytest.raises(DataError) as refused:
        first_examples(iter(examples), None)
    assert (
        "the data has ids that stand more than once (6): 'a', 'c', 'd', 'e', 'f' and 1 more"
        in str(refused.value)
    )
    assert len(first_examples(iter(examples), 3)) == 3


def test_counts_and_first_ids_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    async def flow(*of: Any) -> None: ...

    task = FlowTask([], flow)
    for number in range(1200):
        task.leave_out(f"e{number}", "no label")
    task.leave_out("x", "too long")
    note_left_out(task)
    assert capsys.readouterr().err == (
        "flowtune: note: left out 1,200 examples (no label): 'e0', 'e1', 'e2', 'e3', 'e4' and 1,195"
        " more\nflowtune: note: left out 1 example (too long): 'x'\n"
    )
    assert sum(map(len, task.left_out.ids.values())) == 6, "memory does not grow"


def test_rollouts_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = {"result": {"x": 1}}, {"result": None}
    note_failed_rollouts([{"id": "a", "rollouts": [good]}, {"id": "b"}])
    assert capsys.readouterr().err == ""
    lines = [
        {"id": "a", "rollouts": [good, bad, bad]},
        {"id": "p", "example_id": "b", "rollouts": [bad]},
    ]
    note_failed_rollouts(lines)
    said = "3 of 4 rollouts failed and have no result, of examples 'a', 'b'\n"
    assert capsys.readouterr().err.endswith(said)
