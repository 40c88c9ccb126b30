"""Counts of a server, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets of a request's time."""

Labels = tuple[str, ...]


@dataclass
class Counter:
    """Only ever grows; one number for each combination of labels."""

    name: str
    text: str
    labels: Sequence[str] = ()
    kind: str = "counter"
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        self.values[labels] = self.values.get(labels, 0) + by

    def samples(self) -> Iterator[str]:
        """Its lines."""
        for labels, value in sorted(self.values.items()):
            yield _line(self.name, zip(self.labels, labels, strict=True), value)


@dataclass
class Gauge:
    """A number that is looked up when it is asked for."""

    name: str
    text: str
    value: Callable[[], float]
    kind: str = "gauge"

    def samples(self) -> Iterator[str]:
        """Its line."""
        yield _line(self.name, (), self.value())


@dataclass
class Histogram:
    """How many values are no more than each bound, how many there are, and their sum."""

    name: str
    text: str
    labels: Sequence[str]
    bounds: Sequence[float] = SECONDS
    kind: str = "histogram"
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=dict)

    def observe(self, value: float, *labels: str) -> None:
        """Count a value."""
        counts = self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))
        for place, bound in enumerate((*self.bounds, math.inf)):
            counts[place] += value <= bound
        self.sums[labels] = self.sums.get(labels, 0.0) + value

    def samples(self) -> Iterator[str]:
        """Its lines."""
        for labels, counts in sorted(self.counts.items()):
            named = list(zip(self.labels, labels, strict=True))
            for bound, count in zip((*self.bounds, math.inf), counts, strict=True):
                yield _line(f"{self.name}_bucket", [*named, ("le", _number(bound))], count)
            yield _line(f"{self.name}_sum", named, self.sums[labels])
            yield _line(f"{self.name}_count", named, counts[-1])


Metric = Counter | Gauge | Histogram


def exposition(metrics: Sequence[Metric]) -> str:
    """What Prometheus reads."""
    lines = []
    for metric in metrics:
        lines.append(f"# HELP {metric.name} {_escaped(metric.text)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines += metric.samples()
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, labels: object, value: float) -> str:
    named = ",".join(f'{key}="{_quoted(text)}"' for key, text in labels)  # type: ignore[attr-defined]
    return f"{name}{{{named}}} {_number(value)}" if named else f"{name} {_number(value)}"


def _number(value: float) -> str:
    if value == math.inf:
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
