"""``flowtune evaluate``: figures of prediction files, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.letters_task import LETTERS
from installed_plugins import Site

Run = Callable[..., Any]


@pytest.fixture
def evaluate(site: Site, run: Run) -> Run:
    """Evaluates out.jsonl, for which no model is needed."""
    site.install("letters", LETTERS)
    write(5)
    return lambda *more: run("evaluate", "letters", "out.jsonl", "--split", "test", *more)


def write(count: int, *others: str) -> None:
    good = [json.dumps({"id": f"test-{n}", "good": "Yes" if n else "No"}) for n in range(count)]
    Path("out.jsonl").write_text("\n".join([*good, *others]) + "\n")


def test_figures(evaluate: Run) -> None:
    done = evaluate()
    assert (done.code, done.rows) == (0, [["good", "0.8000"], ["count", "5"]])
    assert json.loads(evaluate("--json").out) == {"good": 0.8, "count": 5}


def test_the_first_examples_alone(evaluate: Run) -> None:
    write(2)
    assert evaluate("--limit", "2").rows == [["good", "0.5000"], ["count", "2"]]


def test_blank_lines_are_passed_over(evaluate: Run) -> None:
    write(5, "", "  ")
    assert evaluate().code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "out.jsonl:5: not a line of JSON: Expecting property name"),
        ("[1]", "out.jsonl:5: a prediction is a JSON object"),
        ('{"id": "test-9", "good": "No"}', "test-9 is not test-4"),
    ],
)
def test_malformed_predictions(evaluate: Run, line: str, said: str) -> None:
    write(4, line)
    done = evaluate()
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_bytes_that_are_no_text(evaluate: Run) -> None:
    Path("out.jsonl").write_bytes(b'{"id": "\xff"}\n')
    assert "out.jsonl:1: not a line of JSON" in evaluate().err


def test_a_missing_file(evaluate: Run) -> None:
    Path("out.jsonl").unlink()
    done = evaluate()
    assert done.code == 2
    assert "out.jsonl: cannot be read: No such file or directory" in done.err


def test_no_examples(evaluate: Run) -> None:
    Path("data.jsonl").write_text("")
    done = evaluate("--data", "data.jsonl")
    assert done.code == 2
    assert "the data has no examples" in done.err
