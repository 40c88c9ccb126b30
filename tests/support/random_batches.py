"""Batches to store: real ones from a flow whose nodes need no model, and arbitrary ones."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st

from flowtune_cli.exploration import MultiSample
from flowtune_cli.flow.deviation import Deviation, EvaluatorCall, Outcome, Preference, Trace
from flowtune_cli.flow.effect import EffectRecord
from flowtune_cli.flow.episode import Episode, Failure, RewardEvent, Step, Target
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Call, Datum, Node, NodeOutput, Response
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.flow.task import Task
from flowtune_cli.runs.store import BatchRecord, MetricRecord, UpdateRecord
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.scheduler import Scheduler


def question_of(example: Example) -> str:
    return str(example.inputs.get("question", example.id))


def dump(path: Path) -> list[str]:
    """Everything in a store but the timings."""
    connection = sqlite3.connect(path)
    try:
        return [line for line in connection.iterdump() if 'INSERT INTO "timings"' not in line]
    finally:
        connection.close()


# Real batches


class Digits(Node):
    """Answers every call with a digit, and has two others; no engine is asked."""

    kind: ClassVar[str] = "digits"
    uses_adapter: ClassVar[bool] = False

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return f"{self.name}: {inputs}"

    async def respond(self, call: Call) -> Response:
        shown = self.prompt_text(call.inputs)
        first = hashlib.sha256(shown.encode()).digest()[0] % 10
        outputs = [
            NodeOutput((first + i) % 10, str((first + i) % 10), tokens=1, truncated=first == 7)
            for i in range(3 if call.wants_alternatives else 1)
        ]
        return Response(shown, tuple(outputs), prompt_tokens=len(shown), detail={"first": first})

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        raise NotImplementedError


class NoEngine:
    def answer(self, requests: list[Request]) -> list[Answer]:
        raise AssertionError("no node asks")


class Sums(Task):
    """Two digits are drawn and added up; some sums have no reward, and some fail."""

    name = "sums"
    nodes = (
        Digits(name="draw", reward="high", alternatives=2),
        Digits(name="add", learn="supervised"),
    )

    def examples(self, source: Path | None, split: str) -> Iterator[Example]:
        for number in range(1000):
            yield Example(f"e{number}", {"question": f"the sum\nof {number}"}, gold={number})

    async def run(self, episode: Episode, example: Example) -> dict[str, int]:
        drawn = [await episode.call("draw", id=example.id, number=i) for i in range(2)]
        total = sum(drawn)
        if total == 3:
            raise RuntimeError(f"three is too much for {object()}")
        episode.reward("high", None if total == 8 else total // 2 / 10)
        added = await episode.call("add", drawn=drawn)
        episode.target("add", total)
        return {"sum": added}


def played(batches: int, size: int = 3) -> Iterator[BatchRecord]:
    """The batches of a run of ``Sums``."""
    task = Sums()
    examples = task.examples(None, "train")
    for batch in range(batches):
        traces = Scheduler(NoEngine()).run(
            deviate(task, next(examples), explorations={"draw": MultiSample()}, evaluators={})
            for _ in range(size)
        )
        yield BatchRecord(
            batch,
            traces,
            batch * size,
            {"draw": batch, "add": batch},
            updates=[UpdateRecord("draw", batch, batch + 1, 2, 2, 0, loss=1 / (batch + 1))],
            metrics={"high": MetricRecord(None, batch / 10, defined=batch, undefined=1)},
            reference_update={"draw": batch % 4 == 1} if batch % 2 else None,
            checkpoint=batch % 4 == 1,
            timings={"play": 0.25 + batch},
        )


# Arbitrary batches

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x00\ud800\n"), max_size=8
)
COUNTS = st.integers(0, 2**40)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)  # the others are stored as text
# Rewards are finite; those of the greatest size have no finite sum.
MAYBE = st.none() | st.floats(-1e300, 1e300)
JSON = st.recursive(
    st.none() | st.booleans() | COUNTS | NUMBERS | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
NODES = st.sampled_from(["query", "rank", "answer"])
FAILURES = st.builds(Failure, TEXTS, TEXTS)
EVALUATOR_CALLS = st.builds(
    EvaluatorCall,
    prompt=TEXTS,
    answers=st.lists(st.tuples(st.text(max_size=3), NUMBERS), max_size=2).map(tuple),
    dropped_tokens=COUNTS,
)
EFFECTS = st.builds(
    EffectRecord,
    steps=st.integers(0, 4),
    name=TEXTS,
    args=TEXTS,
    result=st.none() | TEXTS,
    error=st.none() | TEXTS,
    again=st.booleans(),
)
OUTPUTS = st.builds(
    NodeOutput,
    value=st.none(),
    text=TEXTS,
    logprob=MAYBE,
    tokens=COUNTS,
    truncated=st.booleans(),
)
RESPONSES = st.builds(
    Response,
    prompt=TEXTS,
    outputs=st.lists(OUTPUTS, min_size=1, max_size=3).map(tuple),
    adapter_version=COUNTS,
    prompt_tokens=COUNTS,
    dropped_tokens=st.integers(0, 3),
    detail=st.dictionaries(st.text(max_size=3), JSON, max_size=2),
)


@st.composite
def steps(draw: st.DrawFn, first: int = 0) -> list[Step]:
    responses = draw(st.lists(RESPONSES, max_size=3))
    return [
        Step(index, draw(NODES), "", response, response.outputs[0])
        for index, response in enumerate(responses, first)
    ]


@st.composite
def rollouts(draw: st.DrawFn, episode: Episode, step: Step, alternative: int) -> Deviation:
    outcome = draw(st.sampled_from(Outcome))
    rollout = None
    if outcome is not Outcome.SKIPPED:
        rollout = Episode(episode.example, {})
        output = step.response.outputs[alternative]
        substituted = replace(step, output=output, substituted=True)
        rollout.steps = [*episode.steps[: step.index], substituted]
        rollout.steps += draw(steps(step.index + 1))
        rollout.effects = draw(st.lists(EFFECTS, max_size=2))
        rollout.result = draw(JSON)
        rollout.stopped_early = draw(st.booleans())
        rollout.failure = draw(FAILURES) if outcome is Outcome.FAILED else None
    return Deviation(
        step.index,
        step.node,
        alternative,
        rollout,
        outcome,
        greedy_reward=draw(MAYBE),
        alternative_reward=draw(MAYBE),
        gain=draw(MAYBE),
        reason=draw(TEXTS),
        failure=draw(FAILURES) if outcome is Outcome.EVALUATOR_FAILED else None,
        evaluator_calls=tuple(draw(st.lists(EVALUATOR_CALLS, max_size=2))) if rollout else (),
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    name = draw(st.sampled_from("abc"))
    example = Example(name, {"question": f"What is\n  {name}?"}, gold={"answer": name})
    episode = Episode(example, {})
    episode.steps = draw(steps())
    episode.effects = draw(st.lists(EFFECTS, max_size=2))
    episode.rewards = draw(st.lists(st.builds(RewardEvent, st.sampled_from("fg"), MAYBE, COUNTS)))
    episode.result = draw(JSON)
    episode.failure = draw(st.none() | FAILURES)
    trace = Trace(example, episode)
    for step in episode.steps:
        if draw(st.booleans()):
            episode.targets.append(Target(step.index, draw(JSON)))
        greedy, *others = step.response.outputs
        for alternative, other in enumerate(others, 1):
            trace.deviations.append(draw(rollouts(episode, step, alternative)))
            if draw(st.booleans()):
                margin = draw(NUMBERS)
                trace.preferences.append(
                    Preference(step.index, step.node, alternative, other, greedy, margin)
                )
    return trace


UPDATES = st.builds(
    UpdateRecord, NODES, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE
)


@st.composite
def batches(draw: st.DrawFn, max_size: int = 4) -> list[BatchRecord]:
    """Batches that follow one another; examples come again, as in a second pass."""
    records: list[BatchRecord] = []
    position = 0
    for batch in range(draw(st.integers(0, max_size))):
        played = draw(st.lists(traces(), max_size=2))
        records.append(
            BatchRecord(
                batch,
                played,
                position,
                draw(st.dictionaries(NODES, COUNTS)),
                draw(st.lists(UPDATES, max_size=3, unique_by=lambda update: update.node)),
                draw(
                    st.dictionaries(
                        st.sampled_from("fg"),
                        st.builds(MetricRecord, MAYBE, MAYBE, COUNTS, COUNTS),
                    )
                ),
                draw(st.none() | st.dictionaries(NODES, st.booleans())),
                draw(st.booleans()),
                draw(st.dictionaries(st.sampled_from(["play", "learn"]), st.floats(0, 9))),
            )
        )
        position += len(played)
    return records
