"""The record of one mini-batch, and its rows in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..flow.deviation import Deviation, Trace, mean_gains
from ..flow.effect import EffectRecord
from ..flow.episode import Episode, Step
from ..flow.example import Example
from ..flow.surrogates import escaped
from .serialization import to_json, without_addresses

Row = tuple[str, dict[str, Any]]
"""A table's name, and the row's values by column."""


@dataclass(frozen=True)
class UpdateRecord:
    """One node's update, or its part in one that nodes with the same adapter made together.

    Args:
        version_before, version_after: the adapter's number of updates; equal if nothing taught it.
        data: how many training data; ``preferences`` and ``targets`` count their sources.
        loss: mean over the data.
        margin: mean implicit reward margin of the preferences, before the update.
        accuracy: share of preferences with a positive margin.
        gradient_norm: mean over the optimizer's steps, before clipping.
        reference_drift: norm of the difference between the adapter and its reference.
    """

    node: str
    version_before: int
    version_after: int
    data: int
    preferences: int
    targets: int
    loss: float | None = None
    margin: float | None = None
    accuracy: float | None = None
    gradient_norm: float | None = None
    reference_drift: float | None = None


@dataclass(frozen=True)
class MetricRecord:
    """A reward's mean over the window and over the run; None as long as it was never defined."""

    window: float | None
    overall: float | None
    defined: int
    undefined: int


@dataclass(frozen=True)
class BatchRecord:
    """Everything that one mini-batch produced.

    Args:
        batch: its number, from 0.
        traces: one for each example, in order.
        position: the number of its first episode; episodes are numbered from 0 through the run.
        adapter_versions: by node, the versions that the episodes were played with.
        reference_update: by node, whether its reference moved; None if the batch did not end a
            window.
        checkpoint: whether a checkpoint follows. Write the record before the checkpoint: a resume
            deletes what was stored after its checkpoint, and cannot add what is missing.
        timings: seconds by phase.
        rollout_gaps: by node whose outputs servers decoded, the mean absolute difference of their
            log-probabilities from those found here, in nats a token; for trackers alone.
    """

    batch: int
    traces: Sequence[Trace]
    position: int
    adapter_versions: Mapping[str, int]
    updates: Sequence[UpdateRecord] = ()
    metrics: Mapping[str, MetricRecord] = field(default_factory=dict)
    reference_update: Mapping[str, bool] | None = None
    checkpoint: bool = False
    timings: Mapping[str, float] = field(default_factory=dict)
    rollout_gaps: Mapping[str, float] = field(default_factory=dict)


def batch_rows(
    record: BatchRecord, question_of: Callable[[Example], str], previous: Mapping[str, int]
) -> Iterator[Row]:
    """The rows of a batch, without those of ``running_totals``.

    Rows of ``texts`` and ``examples`` may exist already.

    Args:
        question_of: shows an example in one line.
        previous: the row of the previous batch; empty for the first.
    """
    episodes = [trace.episode for trace in record.traces]
    totals = {
        "total_failed": sum(e.failure is not None for e in episodes),
        "total_truncated": sum(any(s.output.truncated for s in e.steps) for e in episodes),
        "total_shortened": sum(any(s.response.dropped_tokens for s in e.steps) for e in episodes),
    }
    yield (
        "batches",
        {
            "number": record.batch,
            "first_episode": record.position,
            "episodes": len(record.traces),
            "checkpoint": int(record.checkpoint),
            "adapter_versions": to_json(dict(record.adapter_versions)),
            **{name: previous.get(name, 0) + count for name, count in totals.items()},
        },
    )
    for number, trace in enumerate(record.traces, record.position):
        yield (
            "examples",
            {
                "id": trace.example.id,
                "question": " ".join(question_of(trace.example).split()),
                "gold": to_json(trace.example.gold),
                "batch": record.batch,
            },
        )
        yield from _episode(trace, number, record.batch)
    for update in record.updates:
        yield "updates", {"batch": record.batch, **asdict(update)}
    for name, metric in record.metrics.items():
        yield "metrics", {"batch": record.batch, "name": name, **asdict(metric)}
    for node, moved in (record.reference_update or {}).items():
        yield "reference_updates", {"batch": record.batch, "node": node, "moved": int(moved)}


def _episode(trace: Trace, number: int, batch: int) -> Iterator[Row]:
    episode = trace.episode
    failure = episode.failure
    yield (
        "episodes",
        {
            "number": number,
            "batch": batch,
            "example_id": trace.example.id,
            "result": to_json(episode.result),
            "error": without_addresses(failure.error) if failure else None,
            "traceback": without_addresses(failure.traceback) if failure else None,
            "steps": len(episode.steps),
            "truncated": sum(step.output.truncated for step in episode.steps),
            "dropped_tokens": sum(step.response.dropped_tokens for step in episode.steps),
            "rollouts": len(trace.deviations),
            "preferences": len(trace.preferences),
            "best_gain": max(mean_gains(trace.deviations).values(), default=None),
        },
    )
    key = {"episode": number}
    for count, event in enumerate(episode.rewards):
        stored = {"name": event.name, "value": event.value, "steps": event.steps}
        yield "rewards", key | {"number": count, **stored}
    for count, target in enumerate(episode.targets):
        yield (
            "targets",
            key
            | {
                "number": count,
                "step": target.step,
                "node": episode.steps[target.step].node,
                "gold": to_json(target.gold),
            },
        )
    for step in episode.steps:
        yield from _step(step, number, 0, batch)
        for count, output in enumerate(step.response.outputs[1:], 1):
            yield (
                "alternatives",
                key
                | {
                    "step": step.index,
                    "number": count,
                    "node": step.node,
                    "text": output.text,
                    "logprob": output.logprob,
                    "tokens": output.tokens,
                    "truncated": int(output.truncated),
                },
            )
    yield from _effects(episode.effects, number, 0)
    yield from _request_errors(episode, number, 0)
    for count, deviation in enumerate(trace.deviations, 1):
        yield from _rollout(deviation, number, count, batch)
    for preference in trace.preferences:
        yield (
            "preferences",
            key
            | {
                "step": preference.step,
                "alternative": preference.alternative,
                "node": preference.node,
                "chosen": preference.chosen.text,
                "rejected": preference.rejected.text,
                "margin": preference.margin,
            },
        )


def _step(step: Step, episode: int, rollout: int, batch: int) -> Iterator[Row]:
    text = _text(step.response.prompt, batch)
    yield text
    yield (
        "steps",
        {
            "episode": episode,
            "rollout": rollout,
            "step": step.index,
            "node": step.node,
            "prompt": text[1]["sha256"],
            "output": step.output.text,
            "adapter_version": step.response.adapter_version,
            "prompt_tokens": step.response.prompt_tokens,
            "tokens": step.output.tokens,
            "logprob": step.output.logprob,
            "truncated": int(step.output.truncated),
            "dropped_tokens": step.response.dropped_tokens,
            "substituted": int(step.substituted),
            # A substituted step has the response of the episode's step, where it is stored.
            "detail": None if step.substituted else to_json(dict(step.response.detail) or None),
        },
    )


def _rollout(deviation: Deviation, episode: int, number: int, batch: int) -> Iterator[Row]:
    rollout = deviation.rollout
    failure = deviation.failure or (rollout.failure if rollout else None)
    yield (
        "rollouts",
        {
            "episode": episode,
            "number": number,
            "step": deviation.step,
            "node": deviation.node,
            "alternative": deviation.alternative,
            "ending": deviation.ending,
            "outcome": deviation.outcome.value,
            "greedy_reward": deviation.greedy_reward,
            "alternative_reward": deviation.alternative_reward,
            "gain": deviation.gain,
            "reason": without_addresses(deviation.reason),
            "traceback": without_addresses(failure.traceback) if failure else None,
            "stopped_early": int(rollout is not None and rollout.stopped_early),
            "result": to_json(rollout.result) if rollout else None,
        },
    )
    for step in rollout.steps[deviation.step :] if rollout else ():
        yield from _step(step, episode, number, batch)
    later = [e for e in rollout.effects if e.steps > deviation.step] if rollout else []
    yield from _effects(later, episode, number)
    if rollout is not None:
        yield from _request_errors(rollout, episode, number)
    for count, call in enumerate(deviation.evaluator_calls):
        text = _text(call.prompt, batch)
        yield text
        yield (
            "evaluator_calls",
            {
                "episode": episode,
                "rollout": number,
                "number": count,
                "prompt": text[1]["sha256"],
                "answers": to_json(call.answers),
                "dropped_tokens": call.dropped_tokens,
            },
        )


def _effects(effects: Sequence[EffectRecord], episode: int, rollout: int) -> Iterator[Row]:
    for number, effect in enumerate(effects):
        yield (
            "effects",
            {
                "episode": episode,
                "rollout": rollout,
                "number": number,
                "steps": effect.steps,
                "name": effect.name,
                "args": effect.args,
                "result": effect.result,
                "error": without_addresses(effect.error) if effect.error else None,
                "again": int(effect.again),
            },
        )


def _request_errors(run: Episode, episode: int, rollout: int) -> Iterator[Row]:
    """In an order that does not depend on which of two threads was first."""
    errors = sorted(run.request_errors, key=lambda e: (e.message, e.code or "", e.place or ""))
    for number, error in enumerate(errors):
        yield (
            "request_errors",
            {
                "episode": episode,
                "rollout": rollout,
                "number": number,
                "message": without_addresses(error.message),
                "code": error.code,
                "place": error.place,
            },
        )


def _text(prompt: str, batch: int) -> Row:
    text = escaped(prompt)
    digest = hashlib.sha256(text.encode()).digest()
    return "texts", {"sha256": digest, "text": text, "batch": batch}
