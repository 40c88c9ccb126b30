"""Paired figures: means, intervals, differences, wins."""

from __future__ import annotations

import random

import numpy
import pytest

from flowtune_cli.cli import paired_bootstrap
from flowtune_cli.cli.paired_bootstrap import Wins, paired


def test_means_differences_and_wins_are_of_what_is_defined() -> None:
    first, other = paired([[1.0, 0.0, None, 0.5, None], [0.0, 1.0, 1.0, 0.5, None]])
    assert (first.value, first.defined, first.difference, first.wins) == (0.5, 3, None, None)
    assert (other.value, other.defined) == (0.625, 4)
    assert other.difference == 0.0  # over the three where both are
    assert other.wins == Wins(1, 1, 1, 2)
    assert other.wins.compared == 3


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = random.Random(3)
    inside = 0
    for trial in range(100):
        values = [rng.gauss(2.0, 1.0) for _ in range(50)]
        [found] = paired([values], seed=trial)
        assert found.interval is not None
        inside += found.interval[0] <= 2.0 <= found.interval[1]
    assert 88 <= inside <= 99


def test_pairing_shows_a_difference_that_two_intervals_hide() -> None:
    rng = random.Random(1)
    first = [rng.random() for _ in range(100)]
    second = [value + 0.02 + rng.gauss(0, 0.02) for value in first]
    one, other = paired([first, second])
    assert one.interval is not None
    assert other.interval is not None
    assert other.difference_interval is not None
    assert other.interval[0] < one.interval[1]  # they overlap
    assert other.difference_interval[0] > 0


def test_the_same_seed_gives_the_same_and_blocks_change_nothing_of_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [[float(n % 7) for n in range(40)], [float(n % 5) for n in range(40)]]
    whole = paired(values)
    assert whole == paired(values)
    assert whole != paired(values, seed=1)
    monkeypatch.setattr(paired_bootstrap, "_MOST_NUMBERS", 120)
    for one, other in zip(whole, paired(values), strict=True):
        assert numpy.allclose(one.interval, other.interval, atol=0.2)  # type: ignore[arg-type]


def test_nothing_defined() -> None:
    first, other = paired([[None, None], [None, 1.0]])
    assert (first.value, first.interval) == (None, None)
    assert (other.value, other.interval) == (1.0, None)  # of a single example
    assert (other.difference, other.difference_interval) == (None, None)
    assert other.wins == Wins(0, 0, 0, 2)
