"""Progressive validation: the running average of rewards, each taken before learning from it.

With one pass over the data this estimates performance on unseen examples without holding any out
(Blum, Kalai and Langford 1999). The average over the window since the last checkpoint also gates
the reference updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Average:
    """A running mean that counts what was undefined instead of reading it as zero."""

    total: float = 0.0
    defined: int = 0
    undefined: int = 0

    def add(self, value: float | None) -> None:
        if value is None:
            self.undefined += 1
        else:
            self.total += value
            self.defined += 1

    @property
    def mean(self) -> float | None:
        return self.total / self.defined if self.defined else None


@dataclass
class Progressive:
    """Window and overall averages of every reward, and the gate.

    Args:
        gate: the reward that gates reference updates; None lets every window pass.
        best: the best window average of the gate so far.
    """

    gate: str | None = None
    best: float | None = None
    window: dict[str, Average] = field(default_factory=dict)
    overall: dict[str, Average] = field(default_factory=dict)

    def add(self, rewards: Mapping[str, float | None]) -> None:
        """Add one episode's rewards."""
        for name, value in rewards.items():
            self.window.setdefault(name, Average()).add(value)
            self.overall.setdefault(name, Average()).add(value)

    def close_window(self) -> bool:
        """End the window; says whether the references move: it beat every window before it."""
        passed = True
        if self.gate is not None:
            average = self.window.get(self.gate)
            mean = average.mean if average else None
            passed = mean is not None and (self.best is None or mean > self.best)
            if passed:
                self.best = mean
        self.window = {}
        return passed

    def state(self) -> dict[str, Any]:
        """As JSON values; ``from_state`` takes it back exactly."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progressive:
        return cls(
            gate=state["gate"],
            best=state["best"],
            window={name: Average(**average) for name, average in state["window"].items()},
            overall={name: Average(**average) for name, average in state["overall"].items()},
        )
