"""One episode with its deviations and preferences, as JSON values."""

from __future__ import annotations

from typing import Any

from ..flow.deviation import Deviation, Trace
from ..flow.effect import EffectRecord
from ..flow.episode import Episode, Failure, Step
from ..flow.node import NodeOutput
from ..flow.task import Task
from ..runs.serialization import from_json, to_json


def trace_json(task: Task, trace: Trace) -> dict[str, Any]:
    """An episode with its deviations and preferences."""
    episode, example = trace.episode, trace.example
    return {
        "example": {
            "id": example.id,
            "question": task.question_text(example),
            "inputs": _json_values(dict(example.inputs)),
            "gold": _json_values(example.gold),
        },
        "steps": [_step(task, step) for step in episode.steps],
        "effects": [_effect(effect) for effect in episode.effects],
        "rewards": [{"name": r.name, "value": r.value, "steps": r.steps} for r in episode.rewards],
        "reward_means": episode.reward_means(),
        "targets": [{"step": t.step, "gold": _json_values(t.gold)} for t in episode.targets],
        "result": _json_values(episode.result),
        "failure": _failure(episode.failure),
        "deviations": [_deviation(task, deviation) for deviation in trace.deviations],
        "preferences": [
            {
                "step": preference.step,
                "node": preference.node,
                "alternative": preference.alternative,
                "chosen": preference.chosen.text,
                "rejected": preference.rejected.text,
                "margin": preference.margin,
            }
            for preference in trace.preferences
        ],
    }


def _step(task: Task, step: Step) -> dict[str, Any]:
    response = step.response
    return {
        "index": step.index,
        "node": step.node,
        "kind": task.node(step.node).kind,
        "adapter_version": response.adapter_version,
        "prompt": response.prompt,
        "prompt_tokens": response.prompt_tokens,
        "dropped_tokens": response.dropped_tokens,
        "substituted": step.substituted,
        "output": _output(step.output),
        "alternatives": [_output(output) for output in response.outputs[1:]],
        "options": [_output(output) for output in response.options],
        "detail": _json_values(dict(response.detail)),
    }


def _output(output: NodeOutput) -> dict[str, Any]:
    return {
        "text": output.text,
        "value": _json_values(output.value),
        "logprob": output.logprob,
        "tokens": output.tokens,
        "truncated": output.truncated,
    }


def _deviation(task: Task, deviation: Deviation) -> dict[str, Any]:
    rollout = deviation.rollout
    return {
        "step": deviation.step,
        "node": deviation.node,
        "alternative": deviation.alternative,
        "ending": deviation.ending,
        "outcome": deviation.outcome.value,
        "greedy_reward": deviation.greedy_reward,
        "alternative_reward": deviation.alternative_reward,
        "gain": deviation.gain,
        "reason": deviation.reason,
        **_ended(task, deviation, rollout),
        "failure": _failure(deviation.failure or (rollout.failure if rollout else None)),
        "baseline": None
        if deviation.baseline is None
        else {
            **_ended(task, deviation, deviation.baseline),
            "failure": _failure(deviation.baseline.failure),
        },
        "evaluator_calls": [
            {
                "prompt": call.prompt,
                "answers": [{"text": text, "logprob": value} for text, value in call.answers],
                "dropped_tokens": call.dropped_tokens,
            }
            for call in deviation.evaluator_calls
        ],
    }


def _ended(task: Task, deviation: Deviation, run: Episode | None) -> dict[str, Any]:
    """What followed a deviation."""
    steps = run.steps[deviation.step :] if run else []
    effects = [effect for effect in run.effects if effect.steps > deviation.step] if run else []
    return {
        "steps": [_step(task, step) for step in steps],
        "effects": [_effect(effect) for effect in effects],
        "stopped_early": run is not None and run.stopped_early,
        "result": _json_values(run.result) if run else None,
    }


def _effect(effect: EffectRecord) -> dict[str, Any]:
    return {
        "steps": effect.steps,
        "name": effect.name,
        "args": from_json(effect.args),
        "result": from_json(effect.result),
        "error": effect.error,
        "again": effect.again,
    }


def _failure(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else vars(failure)


def _json_values(value: Any) -> Any:
    """The value as JSON values, with a task's own types converted."""
    return from_json(to_json(value))
