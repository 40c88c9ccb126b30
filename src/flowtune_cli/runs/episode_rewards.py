"""The rewards of an episode, each as the mean over its events."""

from __future__ import annotations

from collections.abc import Iterable

from ..flow.episode import RewardEvent


def mean_by_name(events: Iterable[RewardEvent]) -> dict[str, float | None]:
    """Each reward's mean over its defined values, as in ``Episode.reward_means``."""
    values: dict[str, list[float]] = {}
    for event in events:
        defined = values.setdefault(event.name, [])
        if event.value is not None:
            defined.append(event.value)
    return {name: sum(v) / len(v) if v else None for name, v in values.items()}
