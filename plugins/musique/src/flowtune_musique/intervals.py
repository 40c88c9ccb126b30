"""95 % intervals of means, by the bootstrap: how far a figure could differ on other records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RESAMPLES = 1000
_AT_ONCE = 100


def intervals(columns: Mapping[str, Sequence[float]], seed: int = 0) -> dict[str, list[float]]:
    """The [low, high] of each column's mean: percentiles 2.5 and 97.5 over resampled rows.

    Efron's percentile method. All columns are resampled alike, so they have equally many rows.

    Args:
        columns: values by name; nothing comes of empty ones.
        seed: the same seed gives the same intervals.
    """
    import numpy

    values = numpy.array(list(columns.values()), dtype=float)
    if not values.size:
        return {}
    rows = values.shape[1]
    random = numpy.random.default_rng(seed)
    means = numpy.concatenate(
        [
            values[:, random.integers(rows, size=(_AT_ONCE, rows))].mean(axis=2)
            for _ in range(RESAMPLES // _AT_ONCE)
        ],
        axis=1,
    )
    low, high = numpy.percentile(means, [2.5, 97.5], axis=1)
    return {
        name: [round(float(low[number]), 3), round(float(high[number]), 3)]
        for number, name in enumerate(columns)
    }
