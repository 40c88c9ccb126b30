"""A stored episode as JSON values, by the same names as ``flowtune play --json`` has them.

The tables keep an episode flat, and JSON as text. A key that only one of the two knows is left out
by the other: a store has no inputs, no values of outputs, no options and no episode's side of an
ending, and what is played has no number in a run.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..flow.deviation import Outcome
from ..flow.effect import EffectRecord
from ..flow.episode import RewardEvent
from .episode_rewards import mean_by_name
from .records import EpisodeRecord, RolloutRecord, StepRecord
from .serialization import from_json


def episode_json(episode: EpisodeRecord) -> dict[str, Any]:
    """An episode with its rollouts and preferences."""
    return {
        "number": episode.number,
        "batch": episode.batch,
        "example": {
            "id": episode.example_id,
            "question": episode.question,
            "gold": episode.gold,
        },
        "steps": [step_json(step) for step in episode.steps],
        "effects": [effect_json(effect) for effect in episode.effects],
        "request_errors": [asdict(error) for error in episode.request_errors],
        "rewards": [reward_json(reward) for reward in episode.rewards],
        "reward_means": mean_by_name(episode.rewards),
        "targets": [asdict(target) for target in episode.targets],
        "result": episode.result,
        "failure": _failure(episode.error, episode.traceback),
        "rollouts": [rollout_json(rollout) for rollout in episode.rollouts],
        "preferences": [asdict(preference) for preference in episode.preferences],
    }


def step_json(step: StepRecord) -> dict[str, Any]:
    """A call of a node."""
    return {
        "index": step.index,
        "node": step.node,
        "adapter_version": step.adapter_version,
        "prompt": step.prompt,
        "prompt_tokens": step.prompt_tokens,
        "dropped_tokens": step.dropped_tokens,
        "substituted": step.substituted,
        "output": {
            "text": step.output,
            "logprob": step.logprob,
            "tokens": step.tokens,
            "truncated": step.truncated,
        },
        "alternatives": [asdict(alternative) for alternative in step.alternatives],
        "detail": dict(step.detail),
    }


def rollout_json(rollout: RolloutRecord) -> dict[str, Any]:
    """A rollout; its steps and effects are those from the deviation on."""
    error = None
    if rollout.traceback is not None:
        error = rollout.reason
        if rollout.outcome is Outcome.EVALUATOR_FAILED:  # whose name is before it
            error = error.partition(": ")[2]
    return {
        "number": rollout.number,
        "step": rollout.step,
        "node": rollout.node,
        "alternative": rollout.alternative,
        "ending": rollout.ending,
        "outcome": rollout.outcome.value,
        "greedy_reward": rollout.greedy_reward,
        "alternative_reward": rollout.alternative_reward,
        "gain": rollout.gain,
        "reason": rollout.reason,
        "steps": [step_json(step) for step in rollout.steps],
        "effects": [effect_json(effect) for effect in rollout.effects],
        "request_errors": [asdict(error) for error in rollout.request_errors],
        "stopped_early": rollout.stopped_early,
        "result": rollout.result,
        "failure": _failure(error, rollout.traceback),
        "evaluator_calls": [
            {
                "prompt": call.prompt,
                "answers": [{"text": text, "logprob": value} for text, value in call.answers],
                "dropped_tokens": call.dropped_tokens,
            }
            for call in rollout.evaluator_calls
        ],
    }


def reward_json(reward: RewardEvent) -> dict[str, Any]:
    """A reward event."""
    return {"name": reward.name, "value": reward.value, "steps": reward.steps}


def effect_json(effect: EffectRecord) -> dict[str, Any]:
    """An effect."""
    args, result = from_json(effect.args), from_json(effect.result)
    return {**asdict(effect), "args": args, "result": result}


def _failure(error: str | None, traceback: str | None) -> dict[str, Any] | None:
    return None if traceback is None else {"error": error, "traceback": traceback}
