"""What a run is going to take, from a few episodes that are played and learned from beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..flow.deviation import Trace
from ..flow.episode import Episode
from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.node import Datum
from ..learning.learner import Learner
from ..runs.usage import Usage
from .data import collect
from .evaluation import is_due
from .meter import used_so_far
from .order import training_order
from .session import Session


@dataclass(frozen=True)
class NodeExpectation:
    """What a node is expected to do in the whole run, rollouts included.

    Args:
        calls: of it.
        read, written: tokens of its prompts and outputs.
    """

    node: str
    calls: float
    read: float
    written: float


@dataclass(frozen=True)
class Expectation:
    """What a run is expected to take; all but ``tried`` and ``usage`` is of the whole run.

    Args:
        examples: that it trains on, in each of its passes.
        episodes: to be played, without rollouts.
        tried: episodes that were played to find out.
        rollouts, preferences: to be expected.
        seconds: of playing and learning, without loading the model.
        evaluation_seconds: of these, those of evaluations on held-out examples.
        usage: of this process; its memory is what the run takes at least.
    """

    examples: int
    episodes: int
    tried: int
    rollouts: float
    preferences: float
    nodes: tuple[NodeExpectation, ...]
    seconds: float
    evaluation_seconds: float
    usage: Usage


def expect(
    session: Session,
    learner: Learner,
    examples: Sequence[Example],
    held_out: int,
) -> Expectation:
    """Play the run's first mini-batch and learn from it; the adapters are others afterwards.

    Args:
        learner: the session's.
        examples: to train on, as for ``Trainer``.
        held_out: how many examples each evaluation plays.

    Raises:
        FlowtuneError: no episode came to its end.
    """
    settings = session.settings.training
    order = training_order(examples, settings.seed, settings.limit, settings.passes)
    batch = order[: min(settings.batch_size, settings.save_every)]
    began = time.perf_counter()
    traces = [trace for _, trace in session.deviate(batch)]
    played = time.perf_counter()
    failed = [trace for trace in traces if trace.episode.failure is not None]
    if len(failed) == len(traces):
        failure = failed[0].episode.failure
        assert failure is not None
        raise FlowtuneError(
            f"the flow failed for all of the {len(traces)} examples that were tried. The first one"
            f" is '{failed[0].example.id}':\n{failure.traceback}"
        )
    collected = collect(session.task.nodes, traces)
    session.engine.forget()
    by_adapter: dict[str, dict[str, list[Datum]]] = {}
    for node, node_data in collected.items():
        if node_data.data:
            adapter = session.adapters.owners[node]
            by_adapter.setdefault(adapter, {})[node] = node_data.data
    for adapter, data in by_adapter.items():
        session.update(learner, adapter, data)
    seconds = time.perf_counter() - began
    scale = len(order) / len(batch)
    calls = sum(len(_called(run)) for trace in traces for run in trace.runs)
    own = sum(len(_called(trace.episode)) for trace in traces)
    evaluations = sum(
        is_due(episodes, len(order), settings) for episodes in _checkpoints(len(order), session)
    )
    # Playing greedily takes the share of the time that the episodes' own calls have in all calls.
    greedy = (played - began) / len(batch) * own / max(calls, 1)
    of_evaluations = greedy * held_out * evaluations
    return Expectation(
        examples=len(order) // settings.passes,
        episodes=len(order),
        tried=len(batch),
        rollouts=scale * sum(len(trace.runs) - 1 for trace in traces),
        preferences=scale * sum(len(trace.preferences) for trace in traces),
        nodes=tuple(_expected(session, traces, scale)),
        seconds=scale * seconds + of_evaluations,
        evaluation_seconds=of_evaluations,
        usage=used_so_far(),
    )


def _checkpoints(total: int, session: Session) -> list[int]:
    window = session.settings.training.save_every
    return sorted({0, *range(window, total + 1, window), total})


def _called(run: Episode) -> list[tuple[str, int, int]]:
    """The calls of a run that the engine was asked for: node, tokens read, tokens written."""
    return [
        (
            step.node,
            step.response.prompt_tokens,
            sum(output.tokens for output in step.response.outputs),
        )
        for step in run.steps
        if not (step.substituted or step.recorded)
    ]


def _expected(session: Session, traces: Sequence[Trace], scale: float) -> list[NodeExpectation]:
    sums = {node.name: [0, 0, 0] for node in session.task.nodes}
    for trace in traces:
        for run in trace.runs:
            for node, read, written in _called(run):
                for place, value in enumerate((1, read, written)):
                    sums[node][place] += value
    return [NodeExpectation(node, *(scale * value for value in of)) for node, of in sums.items()]
