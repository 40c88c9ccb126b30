"""``flowtune evaluate``: figures of prediction files, good and bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.letters_task import LETTERS

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
    assert (done.code, done.rows) == (0, [["good", "0.800"], ["count", "5"]])
    assert json.loads(evaluate("--json").out) == {"good": 0.8, "count": 5}


NESTED = """
        return {"good": 1.0, "count": 2, "wide": 0.12345, "intervals": {"good": [0.5, 1.0]},
                "parts": {"odd": {"good": 0.25, "intervals": {"good": [0.0, 0.5]}}}}
"""


def test_groups_of_figures_and_intervals(site: Site, run: Run) -> None:
    site.install("letters", LETTERS.replace("        good = sum(", NESTED + "        good = sum("))
    write(5)
    done = run("evaluate", "letters", "out.jsonl", "--split", "test")
    assert done.rows == [
        ["good", "1.000", "0.500 to 1.000"],
        ["count", "2", ""],
        ["wide", "0.123", ""],
        ["parts.odd.good", "0.250", "0.000 to 0.500"],
    ]
    figures = json.loads(run("evaluate", "letters", "out.jsonl", "--split", "test", "--json").out)
    assert figures["intervals"] == {"good": [0.5, 1.0]}
    assert figures["parts"]["odd"]["good"] == 0.25


def test_predictions_in_another_order(evaluate: Run) -> None:
    lines = Path("out.jsonl").read_text().splitlines()
    Path("out.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    done = evaluate()
    assert (done.code, done.out) == (2, "")
    assert "4 of 5 predictions are not in the order of the data: number 1" in done.err
    done = evaluate("--reorder")
    assert done.rows == [["good", "0.800"], ["count", "5"]]
    assert "sorted 4 of 5 predictions into the order of the data" in done.err


def test_the_first_examples_alone(evaluate: Run) -> None:
    write(2)
    assert evaluate("--limit", "2").rows == [["good", "0.500"], ["count", "2"]]


def test_blank_lines_are_passed_over(evaluate: Run) -> None:
    write(5, "", "  ")
    assert evaluate().code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "out.jsonl:5: not valid JSON: Expecting property name"),
        ("[1]", "out.jsonl:5: a prediction must be a JSON object"),
        ('{"good": "No"}', "prediction 5 has no text in 'id'"),
        (
            '{"id": "test-9", "good": "No"}',
            "no line for 1 of 5 examples: 'test-4'; no example for 1 of 5 lines",
        ),
    ],
)
def test_malformed_predictions(evaluate: Run, line: str, said: str) -> None:
    write(4, line)
    done = evaluate()
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_predictions_of_another_task_are_named(evaluate: Run) -> None:
    lines = [json.dumps({"id": f"test-{n}", "answer": "x"}) for n in range(5)]
    Path("out.jsonl").write_text("\n".join(lines))
    done = evaluate()
    assert (done.code, done.out) == (1, "")
    assert "task 'letters' cannot evaluate out.jsonl: are these predictions of this" in done.err
    assert "KeyError: 'good'" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out.jsonl"], "name it before 'out.jsonl', or the run that predicted, by --run"),
        ([], "say which predictions are meant: TASK PREDICTIONS, or PREDICTIONS --run RUN"),
        (["out.jsonl", "--run", "z"], "unknown run 'z'"),
    ],
)
def test_which_predictions_of_what(
    evaluate: Run, run: Run, arguments: list[str], said: str
) -> None:
    for command in (["evaluate"], ["postprocess", "--out", "p.jsonl"]):
        done = run(*command, *arguments)
        assert done.code == 2
        assert said in done.err


def test_bytes_that_are_no_text(evaluate: Run) -> None:
    Path("out.jsonl").write_bytes(b'{"id": "\xff"}\n')
    assert "out.jsonl:1: not UTF-8: byte 0xff" in evaluate().err


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


SKIPPING = """
        if split == "test":
            self.leave_out("broken", "no question")
        if source is None:"""
UNLABELLED = """
        for example in examples:
            if example.gold in (1, 2, 3):
                self.leave_out(example.id, "no label")
        good = sum("""


def test_what_is_left_out_is_said_with_ids(site: Site, run: Run) -> None:
    changed = LETTERS.replace("\n        if source is None:", SKIPPING)
    site.install("letters", changed.replace("\n        good = sum(", UNLABELLED))
    write(5)
    done = run("evaluate", "letters", "out.jsonl", "--split", "test", "--json")
    assert "note: left out 1 example (no question): 'broken'\n" in done.err
    assert "note: left out 3 examples (no label): 'test-1', 'test-2', 'test-3'\n" in done.err
    assert json.loads(done.out)["left_out"] == {
        "no question": {"count": 1, "first_ids": ["broken"]},
        "no label": {"count": 3, "first_ids": ["test-1", "test-2", "test-3"]},
    }


def test_an_id_that_stands_twice(evaluate: Run) -> None:
    Path("data.jsonl").write_text('{"id": "x", "question": "what"}\n' * 2)
    done = evaluate("--data", "data.jsonl")
    assert done.code == 2
    assert "the data has ids that stand more than once (1): 'x'" in done.err


def test_numbers_of_numpy_and_what_is_not_finite(site: Site, run: Run) -> None:
    figures = """
        import numpy as np
        return {"small": np.float32(0.5), "whole": np.int64(3), "none": float("nan")}
        good = sum("""
    site.install("letters", LETTERS.replace("\n        good = sum(", figures))
    write(5)
    done = run("evaluate", "letters", "out.jsonl", "--split", "test", "--json")
    assert json.loads(done.out) == {"small": 0.5, "whole": 3, "none": "nan"}
