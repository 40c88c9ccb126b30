"""One episode that was played, as JSON values, by the names of ``runs.episode_json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..flow.deviation import Deviation, Trace
from ..flow.episode import Episode, Failure, Step
from ..flow.node import NodeOutput
from ..flow.task import Task
from ..runs.episode_json import effect_json, reward_json
from ..runs.serialization import from_json, to_json


def trace_json(task: Task, trace: Trace) -> dict[str, Any]:
    """An episode with its rollouts and preferences."""
    episode, example = trace.episode, trace.example
    return {
        "example": {
            "id": example.id,
            "question": task.question_text(example),
            "inputs": _json_values(dict(example.inputs)),
            "gold": _json_values(example.gold),
        },
        "steps": [_step(task, step) for step in episode.steps],
        "effects": [effect_json(effect) for effect in episode.effects],
        "request_errors": [asdict(error) for error in episode.request_errors],
        "rewards": [reward_json(reward) for reward in episode.rewards],
        "reward_means": episode.reward_means(),
        "targets": [{"step": t.step, "gold": _json_values(t.gold)} for t in episode.targets],
        "result": _json_values(episode.result),
        "failure": _failure(episode.failure),
        "rollouts": [
            _rollout(task, deviation, number)
            for number, deviation in enumerate(trace.deviations, start=1)
        ],
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
        "alternatives": [
            {"number": number, **_output(output)}
            for number, output in enumerate(response.outputs[1:], start=1)
        ],
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


def _rollout(task: Task, deviation: Deviation, number: int) -> dict[str, Any]:
    rollout = deviation.rollout
    return {
        "number": number,
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
        "effects": [effect_json(effect) for effect in effects],
        "request_errors": [asdict(error) for error in run.request_errors] if run else [],
        "stopped_early": run is not None and run.stopped_early,
        "result": _json_values(run.result) if run else None,
    }


def _failure(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else vars(failure)


def _json_values(value: Any) -> Any:
    """The value as JSON values, with a task's own types converted."""
    return from_json(to_json(value))
