"""Aligns a rollout with its episode, step by step, from the deviation on."""

from __future__ import annotations

from dataclasses import dataclass

from ..runs.records import EpisodeRecord, RolloutRecord, StepRecord


@dataclass(frozen=True)
class AlignedSteps:
    """The same step of episode and rollout; None if one of them had already ended.

    Args:
        differs: the nodes or the outputs differ.
        first: it is the first difference after the deviation itself.
    """

    index: int
    episode: StepRecord | None
    rollout: StepRecord | None
    differs: bool
    first: bool


def align_steps(episode: EpisodeRecord, rollout: RolloutRecord) -> list[AlignedSteps]:
    """The steps from the deviation on; empty for a rollout that was not played.

    If the rollout stopped early, at its reward, the episode's later steps are left out.
    """
    if not rollout.steps:
        return []
    greedy = {step.index: step for step in episode.steps}
    deviated = {step.index: step for step in rollout.steps}
    last = max(deviated) if rollout.stopped_early else max({**greedy, **deviated})
    pairs: list[AlignedSteps] = []
    for index in range(rollout.step, last + 1):
        one, other = greedy.get(index), deviated.get(index)
        differs = _node_and_output(one) != _node_and_output(other)
        first = differs and index > rollout.step and not any(pair.first for pair in pairs)
        pairs.append(AlignedSteps(index, one, other, differs, first))
    return pairs


def _node_and_output(step: StepRecord | None) -> tuple[str, str] | None:
    return None if step is None else (step.node, step.output)
