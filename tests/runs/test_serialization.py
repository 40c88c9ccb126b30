"""JSON as the store and the commands write it: always valid, whatever a task's values are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli.output import print_json
from flowtune_cli.runs.serialization import from_json, to_json


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


VALUES = {"nan": float("nan"), "far": [float("inf"), -float("inf")], "near": 0.5}
EXPECTED = {"nan": "nan", "far": ["inf", "-inf"], "near": 0.5}


def test_numbers_that_are_not_finite_are_stored_as_text() -> None:
    stored = to_json(VALUES)
    assert stored is not None
    assert strict(stored) == from_json(stored) == EXPECTED


def test_what_is_printed_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({**VALUES, "path": Path("a") / "b"})
    assert strict(capsys.readouterr().out) == {**EXPECTED, "path": str(Path("a") / "b")}
