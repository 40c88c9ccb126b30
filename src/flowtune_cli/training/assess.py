"""Assess a flow: play examples greedily, learn nothing, and average the rewards."""

from __future__ import annotations

from collections.abc import Sequence

from ..flow.example import Example
from .progressive import Average
from .session import Session


def assess(session: Session, examples: Sequence[Example]) -> dict[str, Average]:
    """The average of every reward over examples, with the adapters as they are.

    A failed episode counts as undefined for every reward.
    """
    session.engine.forget()
    averages: dict[str, Average] = {}
    failed = 0
    for _, episode in session.play(examples):
        failed += episode.failure is not None
        rewards = {} if episode.failure else episode.reward_means()
        for name, value in rewards.items():
            averages.setdefault(name, Average()).add(value)
    for average in averages.values():
        average.undefined += failed
    return averages
