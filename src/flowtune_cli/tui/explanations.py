"""Explains in words why a step or a rollout made a preference, or none."""

from __future__ import annotations

from ..flow.deviation import Outcome
from ..runs.records import EpisodeRecord, PreferenceRecord, RolloutRecord, StepRecord
from .formatting import number


def preference_of(episode: EpisodeRecord, rollout: RolloutRecord) -> PreferenceRecord | None:
    """The preference of a rollout; None if it made none."""
    for preference in episode.preferences:
        if (preference.step, preference.alternative) == (rollout.step, rollout.alternative):
            return preference
    return None


def mean_gain(episode: EpisodeRecord, rollout: RolloutRecord) -> float | None:
    """The mean gain of all endings of a rollout's alternative; None if none has one."""
    gains = [each.gain for each in endings_of(episode, rollout) if each.gain is not None]
    return sum(gains) / len(gains) if gains else None


def endings_of(episode: EpisodeRecord, rollout: RolloutRecord) -> list[RolloutRecord]:
    """The rollouts of the same alternative, each with noise of its own."""
    alternative = rollout.step, rollout.alternative
    return [each for each in episode.rollouts if (each.step, each.alternative) == alternative]


def explain_rollout(episode: EpisodeRecord, rollout: RolloutRecord) -> str:
    """Why this rollout made a preference or made none."""
    preference = preference_of(episode, rollout)
    mean, endings = mean_gain(episode, rollout), len(endings_of(episode, rollout))
    if preference is not None:
        sides = [f"alternative {rollout.alternative}", "the greedy output"]
        chosen, rejected = sides if (mean or 0.0) > 0 else sides[::-1]
        of_several = f", the mean gain of {endings} endings" if endings > 1 else ""
        margin = f"margin {number(preference.margin)}{of_several}"
        return f"chosen {chosen}, rejected {rejected}, {margin}"
    if endings > 1 and mean == 0:
        return f"none, because its {endings} endings made no difference on average"
    if rollout.outcome is Outcome.TIE:
        reward = number(rollout.greedy_reward)
        at = "" if rollout.greedy_reward is None else f": both ended with {reward}"
        return f"none, because it made no difference{at}"
    if rollout.gain:
        return "none, because another alternative of this step was better (pairs = best)"
    reasons = {
        Outcome.UNDEFINED: "the rollout cannot be compared",
        Outcome.FAILED: "the flow failed in the rollout",
        Outcome.EVALUATOR_FAILED: "the evaluator failed",
        Outcome.SKIPPED: "the rollout was not played",
    }
    reason = f" ({rollout.reason})" if rollout.reason else ""
    return f"none, because {reasons.get(rollout.outcome, rollout.outcome.value)}{reason}"


def explain_step(episode: EpisodeRecord, step: StepRecord) -> str:
    """What a step gave to learn from."""
    targets = [target for target in episode.targets if target.step == step.index]
    rollouts = [rollout for rollout in episode.rollouts if rollout.step == step.index]
    if rollouts:
        made = sum(preference.step == step.index for preference in episode.preferences)
        tried = len({rollout.alternative for rollout in rollouts})
        return f"{tried} alternative(s) tried, {made} preference(s) made"
    if targets:
        return "a target (supervised)"
    if episode.error is not None:
        return "nothing: the flow failed, so no alternatives were tried"
    if step.alternatives:
        return "nothing: its alternatives were not tried"
    return "nothing: it has no alternatives and no target"
