"""Why a step or a rollout made a preference, or why it made none: in words, from what is stored."""

from __future__ import annotations

from ..flow.deviation import Outcome
from ..runs.stored import StoredEpisode, StoredPreference, StoredRollout, StoredStep
from .figures import number


def preference_of(episode: StoredEpisode, rollout: StoredRollout) -> StoredPreference | None:
    """The preference that a rollout made; None if it made none."""
    for preference in episode.preferences:
        if (preference.step, preference.alternative) == (rollout.step, rollout.alternative):
            return preference
    return None


def explain_rollout(episode: StoredEpisode, rollout: StoredRollout) -> str:
    """Why this rollout made a preference or made none."""
    preference = preference_of(episode, rollout)
    if preference is not None:
        better = rollout.outcome is Outcome.ALTERNATIVE_BETTER
        sides = [f"alternative {rollout.alternative}", "the greedy output"]
        chosen, rejected = sides if better else sides[::-1]
        return f"chosen {chosen}, rejected {rejected}, margin {number(preference.margin)}"
    if rollout.outcome is Outcome.TIE:
        reward = number(rollout.greedy_reward)
        at = "" if rollout.greedy_reward is None else f": both ended with {reward}"
        return f"none, because it made no difference{at}"
    if rollout.gain:
        return "none, because another alternative of this step was better still (pairs = best)"
    reasons = {
        Outcome.UNDEFINED: "the rollout cannot be compared",
        Outcome.FAILED: "the flow failed in the rollout",
        Outcome.SKIPPED: "the rollout was not played",
    }
    reason = f" ({rollout.reason})" if rollout.reason else ""
    return f"none, because {reasons.get(rollout.outcome, rollout.outcome.value)}{reason}"


def explain_step(episode: StoredEpisode, step: StoredStep) -> str:
    """What there was to learn from at a step."""
    targets = [target for target in episode.targets if target.step == step.index]
    rollouts = [rollout for rollout in episode.rollouts if rollout.step == step.index]
    if rollouts:
        made = sum(preference.step == step.index for preference in episode.preferences)
        return f"{len(rollouts)} alternative(s) tried, {made} preference(s) made"
    if targets:
        return "supervised, by the target"
    if episode.error is not None:
        return "nothing: the flow failed, so nothing was tried"
    if step.alternatives:
        return "nothing: its alternatives were not tried"
    return "nothing: it has no alternatives and no target"
