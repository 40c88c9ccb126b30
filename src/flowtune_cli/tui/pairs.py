"""A rollout beside its episode, step by step, from the deviation on."""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.stored import StoredEpisode, StoredRollout, StoredStep


@dataclass(frozen=True)
class Pair:
    """One step of both; None where one of them had ended.

    Args:
        differs: they called different nodes, or got different outputs.
        first: it is the first that differs after the deviation itself.
    """

    index: int
    episode: StoredStep | None
    rollout: StoredStep | None
    differs: bool
    first: bool


def pair_steps(episode: StoredEpisode, rollout: StoredRollout) -> list[Pair]:
    """The steps of both from the deviation on; none for a rollout that was not played.

    Where the rollout stopped early, because its reward was known, the episode's later steps are
    left out: there is nothing to compare them with.
    """
    if not rollout.steps:
        return []
    greedy = {step.index: step for step in episode.steps}
    deviated = {step.index: step for step in rollout.steps}
    last = max(deviated) if rollout.stopped_early else max({**greedy, **deviated})
    pairs: list[Pair] = []
    for index in range(rollout.step, last + 1):
        one, other = greedy.get(index), deviated.get(index)
        differs = _what(one) != _what(other)
        first = differs and index > rollout.step and not any(pair.first for pair in pairs)
        pairs.append(Pair(index, one, other, differs, first))
    return pairs


def _what(step: StoredStep | None) -> tuple[str, str] | None:
    return None if step is None else (step.node, step.output)
