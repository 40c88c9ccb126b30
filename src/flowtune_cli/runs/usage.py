"""What training a run has taken: time, processor time and memory, over all of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import reduce
from typing import Any

from ..flow.endpoint import Spent
from .records import NodeSummary


@dataclass(frozen=True)
class Usage:
    """What a run, or a process of it, has taken.

    Args:
        seconds: by the clock, from the start of a process on.
        processor_seconds: over all cores, with those of subprocesses that have ended.
        peak_memory: bytes of the host's memory that a process held at most.
        peak_gpu_memory: bytes that torch held on a GPU at most; 0 without one.
        endpoints: what was asked of other servers that play nodes.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_memory: int = 0
    peak_gpu_memory: int = 0
    endpoints: Spent = field(default_factory=Spent)

    def then(self, later: Usage) -> Usage:
        """This one's and, after it, another process's."""
        return Usage(
            self.seconds + later.seconds,
            self.processor_seconds + later.processor_seconds,
            max(self.peak_memory, later.peak_memory),
            max(self.peak_gpu_memory, later.peak_gpu_memory),
            self.endpoints.plus(later.endpoints),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Usage:
        """What ``to_json`` returned; what is missing is 0."""
        known = {each.name for each in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        return cls(**{**found, "endpoints": Spent(**found.get("endpoints", {}))})

    @property
    def text(self) -> str:
        """Such as "12 min (20 min of processor time), 1.2 GB of memory"; empty for none."""
        if not self.seconds:
            return ""
        parts = [
            f"{_time(self.seconds)} ({_time(self.processor_seconds)} of processor time)",
            f"{self.peak_memory / 1e9:.1f} GB of memory",
        ]
        if self.peak_gpu_memory:
            parts.append(f"{self.peak_gpu_memory / 1e9:.1f} GB of GPU memory")
        return ", ".join(parts)


def together(usages: Sequence[Usage]) -> Usage:
    """What processes that run side by side take: memory of all, and the time of the longest."""
    return Usage(
        max(each.seconds for each in usages),
        sum(each.processor_seconds for each in usages),
        sum(each.peak_memory for each in usages),
        sum(each.peak_gpu_memory for each in usages),
        reduce(Spent.plus, (each.endpoints for each in usages)),
    )


def used_text(usage: Usage, nodes: Sequence[NodeSummary]) -> str:
    """A run's usage, its nodes' tokens, and what other servers were asked; empty if not known."""
    parts = [usage.text]
    read, written = (sum(getattr(n, what) for n in nodes) for what in ("prompt_tokens", "tokens"))
    if read or written:
        parts.append(f"{short_number(read)} tokens read, {short_number(written)} written")
    if usage.endpoints.requests:
        parts.append(f"of other servers {usage.endpoints}")
    return ", ".join(filter(None, parts))


def short_number(number: float) -> str:
    """Such as "950", "34k" or "1.2M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            shown = number / size
            return f"{shown:.1f}{letter}" if shown < 10 else f"{shown:.0f}{letter}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
