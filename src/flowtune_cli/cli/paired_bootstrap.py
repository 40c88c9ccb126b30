"""How flows compare on the same examples: means, their intervals, and who did better how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 1000
_MOST_NUMBERS = 1 << 20
"""Of indices that are drawn at once, which bounds memory."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Wins:
    """On how many examples a flow did better than the first one, worse, and alike.

    Args:
        unknown: it cannot be said: a flow failed, or the figure is undefined for one of both.
    """

    better: int
    worse: int
    ties: int
    unknown: int

    @property
    def compared(self) -> int:
        return self.better + self.worse + self.ties

    @classmethod
    def of(cls, gains: Sequence[float | None]) -> Wins:
        """Count gains over the first flow, by example; None is unknown."""
        known = [gain for gain in gains if gain is not None]
        better, worse = sum(gain > 0 for gain in known), sum(gain < 0 for gain in known)
        return cls(better, worse, len(known) - better - worse, len(gains) - len(known))


@dataclass(frozen=True)
class Paired:
    """A flow's figure.

    Args:
        value: its mean over the examples where it is defined; None without any.
        defined: how many these are.
        interval: 95 % of the mean; None if it is defined once at most.
        difference: from the first flow, mean over the examples where both are defined.
        difference_interval: 95 % of it.
        wins: None for the first flow.
    """

    value: float | None
    defined: int
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None
    wins: Wins | None = None


def paired(values: Sequence[Sequence[float | None]], seed: int = 0) -> list[Paired]:
    """Compare flows by a figure; each of ``values`` are a flow's, one an example.

    Efron's percentile method: percentiles 2.5 and 97.5 over resampled examples, the same ones for
    all flows.

    Args:
        seed: the same seed gives the same intervals.
    """
    first, *others = values
    differences = [
        [None if a is None or b is None else b - a for a, b in zip(first, other, strict=True)]
        for other in others
    ]
    intervals = _intervals([*values, *differences], seed)
    found = [Paired(_mean(first), _defined(first), intervals[0])]
    for number, (other, gains) in enumerate(zip(others, differences, strict=True), 1):
        of_difference = intervals[len(others) + number]
        found.append(
            Paired(
                _mean(other),
                _defined(other),
                intervals[number],
                _mean(gains),
                of_difference,
                Wins.of(gains),
            )
        )
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _defined(values: Sequence[float | None]) -> int:
    return sum(value is not None for value in values)


def _intervals(rows: Sequence[Sequence[float | None]], seed: int) -> list[Interval | None]:
    """That of each row's mean over its defined values; None for fewer than two."""
    import numpy

    values = numpy.array(rows, dtype=float)  # None becomes NaN
    defined = ~numpy.isnan(values)
    values = numpy.where(defined, values, 0.0)
    count = values.shape[1]
    random = numpy.random.default_rng(seed)
    at_once = max(1, _MOST_NUMBERS // max(1, count))
    means: list[list[Any]] = [[] for _ in rows]
    for start in range(0, RESAMPLES, at_once):
        drawn = random.integers(count, size=(min(at_once, RESAMPLES - start), count))
        for row, found in enumerate(means):
            numbers = defined[row, drawn].sum(axis=1)
            sums = values[row, drawn].sum(axis=1)
            found.append(sums[numbers > 0] / numbers[numbers > 0])
    intervals: list[Interval | None] = []
    for row, found in enumerate(means):
        known = numpy.concatenate(found)
        if defined[row].sum() < 2 or not known.size:
            intervals.append(None)
            continue
        low, high = numpy.percentile(known, [2.5, 97.5])
        intervals.append((float(low), float(high)))
    return intervals
