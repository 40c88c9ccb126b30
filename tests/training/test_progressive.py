"""Averages that count what was undefined, and the gate."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.training.progressive import Average, Progressive

numbers = st.floats(-10, 10)
rewards = st.dictionaries(st.sampled_from(["f1", "em", "gate"]), st.none() | numbers)
# A None ends a window.
histories = st.lists(st.none() | rewards, max_size=30)


def test_what_is_undefined_is_counted_and_not_read_as_zero() -> None:
    average = Average()
    assert average.mean is None
    for value in (1.0, None, 0.0, None, 0.5):
        average.add(value)
    assert (average.mean, average.defined, average.undefined) == (0.5, 3, 2)


def test_what_was_never_defined_has_no_mean() -> None:
    progressive = Progressive()
    progressive.add({"f1": None})
    assert progressive.overall["f1"] == Average(0.0, 0, 1)
    assert progressive.overall["f1"].mean is None


def test_the_window_begins_anew_and_the_whole_goes_on() -> None:
    progressive = Progressive()
    progressive.add({"f1": 1.0, "em": None})
    assert progressive.close_window()
    assert progressive.window == {}
    progressive.add({"f1": 0.0})
    assert progressive.window == {"f1": Average(0.0, 1, 0)}
    assert progressive.overall == {"f1": Average(1.0, 2, 0), "em": Average(0.0, 0, 1)}


@pytest.mark.parametrize(
    ("windows", "passes"),
    [
        ([[1.0], [2.0], [2.0], [1.5], [2.1]], [True, True, False, False, True]),
        # The mean of a window, not its sum; and what is undefined does not lower it.
        ([[1.0, 2.0], [1.4] * 9, [1.6, None]], [True, False, True]),
        # Nothing defined: nothing to pass with, and the best stays.
        ([[None], [-3.0], [None, None], [], [-2.0]], [False, True, False, False, True]),
    ],
)
def test_a_window_passes_that_is_better_than_all_before_it(
    windows: list[list[float | None]], passes: list[bool]
) -> None:
    progressive = Progressive(gate="gate")
    found = []
    for window in windows:
        for value in window:
            progressive.add({"gate": value, "other": 9.0})
        found.append(progressive.close_window())
    assert found == passes


def test_without_a_gate_every_window_passes() -> None:
    progressive = Progressive()
    assert [progressive.close_window() for _ in range(3)] == [True] * 3


@given(histories, histories, st.sampled_from([None, "gate"]))
def test_what_was_saved_goes_on_exactly(
    before: list[dict[str, float | None] | None],
    after: list[dict[str, float | None] | None],
    gate: str | None,
) -> None:
    def go_on(
        progressive: Progressive, history: list[dict[str, float | None] | None]
    ) -> list[bool]:
        passed = []
        for step in history:
            if step is None:
                passed.append(progressive.close_window())
            else:
                progressive.add(step)
        return passed

    progressive = Progressive(gate=gate)
    go_on(progressive, before)
    again = Progressive.from_state(json.loads(json.dumps(progressive.state())))
    assert again == progressive
    assert go_on(again, after) == go_on(progressive, after)
    assert again == progressive


@given(histories)
def test_averages_are_means_of_what_was_added(
    history: list[dict[str, float | None] | None],
) -> None:
    progressive = Progressive(gate="gate")
    best: float | None = None
    window: list[float] = []
    everything: dict[str, list[float | None]] = {}
    for step in history:
        if step is None:
            mean = sum(window) / len(window) if window else None
            expected = mean is not None and (best is None or mean > best)
            assert progressive.close_window() == expected
            best, window = (mean if expected else best), []
            continue
        progressive.add(step)
        for name, value in step.items():
            everything.setdefault(name, []).append(value)
            if name == "gate" and value is not None:
                window.append(value)
    assert progressive.best == best
    for name, values in everything.items():
        defined = [value for value in values if value is not None]
        overall = progressive.overall[name]
        assert (overall.defined, overall.undefined) == (len(defined), len(values) - len(defined))
        assert overall.mean == (pytest.approx(sum(defined) / len(defined)) if defined else None)
