"""What ``flowtune eval`` says of its figures: of how many examples they are, and how sure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from flowtune_cli.cli.contestants import Contestant, Played
from flowtune_cli.cli.eval import _check_played, _compared, _has_own_figures
from flowtune_cli.cli.eval_rows import notes_on, reward_rows, task_rows
from flowtune_cli.flow.episode import Failure
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from support.fake_engine import FlowTask

FLOWS = [Contestant(name, cast(Any, None)) for name in ("a", "b")]
BROKEN = Failure("RuntimeError: never", "Traceback: never")


def played(values: Mapping[int, float | None], failed: tuple[int, ...] = ()) -> Played:
    rewards = {place: {"sum": value} for place, value in values.items()}
    return Played(rewards=cast(Any, rewards), failures=dict.fromkeys(failed, BROKEN))


def rows(both: list[Played], own: list[Any], count: int) -> list[list[str]]:
    figures = _compared(both, count)
    found = [
        *reward_rows(FLOWS, figures, count),
        *task_rows(FLOWS, both, own, figures, count),
    ]
    return [[row[name] for name in ("figure", "flow", "value", "examples")] for row in found]


def test_each_figure_says_of_how_many_examples_it_is() -> None:
    both = [played({0: 1.0, 1: None, 2: 0.5}, failed=(3,)), played(dict.fromkeys(range(4), 1.0))]
    own = [{"f1": (0.25, None)}, {"f1": (0.75, None)}]
    assert rows(both, own, 4) == [
        ["sum", "a", "0.750", "2 of 4"],
        ["sum", "b", "1.000", "4 of 4"],
        ["f1", "a", "0.250", "3 of 4"],
        ["f1", "b", "0.750", "4 of 4"],
    ]


def test_an_own_figure_of_a_rewards_name_is_not_dropped_where_it_is_another() -> None:
    both = [played({0: 1.0, 1: 0.0}), played({0: 1.0, 1: 1.0})]
    assert len(rows(both, [{"sum": (0.5, None)}, {"sum": (1, None)}], 2)) == 2
    found = rows(both, [{"sum": (50.0, None)}, {"sum": (100.0, None)}], 2)
    assert found[2:] == [
        ["sum (task's own)", "a", "50.000", "2 of 2"],
        ["sum (task's own)", "b", "100.000", "2 of 2"],
    ]


def test_means_of_other_examples_are_told() -> None:
    many = range(25)
    same = [played(dict.fromkeys(many, 1.0)), played(dict.fromkeys(many, 0.5))]
    assert list(notes_on(same, _compared(same, 25))) == []
    other = [same[0], played(dict.fromkeys(range(1, 25), 0.5), failed=(0,))]
    [note] = notes_on(other, _compared(other, 25))
    assert note.startswith("the means of sum are not of the same examples for all flows")


def test_few_examples_are_told_and_one_has_no_interval() -> None:
    both = [played({0: 1.0}), played({0: 0.5})]
    figures = _compared(both, 1)
    assert [figure.interval for figure in figures["sum"]] == [None, None]
    assert figures["sum"][1].difference_interval is None
    assert list(notes_on(both, figures)) == [
        "intervals of fewer than 20 examples are too narrow: take more examples"
    ]


def test_nothing_but_failures_is_an_error() -> None:
    examples = [Example("x", {}), Example("y", {})]
    both = [played({}, failed=(0, 1)), played({}, failed=(0, 1))]
    with pytest.raises(FlowtuneError, match="every flow failed for every example") as raised:
        _check_played(FLOWS, examples, both)
    assert "'a' failed for 'x':\nTraceback: never" in str(raised.value)
    _check_played(FLOWS, examples, [both[0], played({0: None}, failed=(1,))])


class Evaluated(FlowTask):
    def evaluate(self, examples: Any, predictions: Any) -> Any:
        return {}


def test_examples_without_labels_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    labelled, other = Example("x", {}, gold=1), Example("y", {})
    assert _has_own_figures(Evaluated([], cast(Any, None)), [labelled])
    assert capsys.readouterr().err == ""
    assert not _has_own_figures(Evaluated([], cast(Any, None)), [labelled, other])
    assert (
        "1 of 2 examples have no labels: 'y'; so there are no figures of the task's own evaluation"
        in capsys.readouterr().err
    )
