"""Play one example with an engine: the episode, its deviations, and what they teach."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ..flow.deviation import Evaluator, Trace
from ..flow.episode import Episode
from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.node import Datum, Exploration, Node
from ..flow.request import Engine
from ..flow.task import Task
from ..registry import load_registry
from ..runtime import deviation
from ..runtime import play as playing
from ..runtime.scheduler import Scheduler

T = TypeVar("T")


def play(task: Task, engine: Engine, example: Example, *, seed: int = 0) -> Episode:
    """Play an example greedily.

    An exception inside the flow does not leave this function: see ``Episode.failure``.

    Raises:
        UsageError: the flow or a prompt asks for something that there is not; see ``Episode.call``.
    """
    return run(engine, playing.play(task, example, seed=seed))


def deviate(
    task: Task,
    engine: Engine,
    example: Example,
    *,
    explorations: Mapping[str, Exploration] | None = None,
    evaluators: Mapping[str, Evaluator] | None = None,
    rollouts: int = 1,
    seed: int = 0,
) -> Trace:
    """Play an example, try the alternatives of each node that learns from preferences, and compare.

    Args:
        explorations: the strategy of each such node, by node name; by default the one that its
            setting ``exploration`` names among the installed plugins.
        evaluators: the evaluator of each such node that has one, by node name; by default the
            one that its setting ``evaluator`` names among the installed plugins.
        rollouts: to how many endings each is played, where these depend on noise.
    """
    if explorations is None:
        explorations = explorations_of(node for node in task.nodes if node.deviates)
    if evaluators is None:
        settings = {n.name: n.evaluator for n in task.nodes if n.deviates and n.evaluator}
        registry = load_registry() if settings else None
        evaluators = {
            name: registry.make_evaluator(setting)
            for name, setting in settings.items()
            if registry is not None
        }
    coroutine = deviation.deviate(
        task,
        example,
        explorations=explorations,
        evaluators=evaluators,
        seed=seed,
        rollouts=rollouts,
    )
    return run(engine, coroutine)


def play_with_rollouts(
    task: Task, engine: Engine, example: Example, nodes: Sequence[str], *, seed: int = 0
) -> tuple[Episode, list[dict[str, Any]]]:
    """Play an example, and each alternative of some nodes to the end, as for a post-processor.

    Args:
        nodes: their names, see ``PostProcessor.nodes``.

    Returns:
        The greedy episode, and its rollouts in the form that ``PostProcessor.apply`` describes;
        none if the episode failed.
    """
    explorations = explorations_of(task.node(name) for name in nodes)
    return run(
        engine, playing.play_with_rollouts(task, example, explorations=explorations, seed=seed)
    )


def training_data(task: Task, *traces: Trace) -> dict[str, list[Datum]]:
    """What each node would learn from these traces, by node name; nodes without data are omitted.

    Raises:
        UsageError: a node cannot learn from the target that the flow reported.
        FlowtuneError: a node raised another exception for a target.
    """
    from ..training.data import collect

    before = [trace.episode.failure for trace in traces]
    collected = collect(task.nodes, traces)
    for trace, failure in zip(traces, before, strict=True):
        if trace.episode.failure is not failure and trace.episode.failure is not None:
            raise FlowtuneError(trace.episode.failure.traceback)
    return {name: found.data for name, found in collected.items()}


def run(engine: Engine, coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose requests the engine answers."""
    [result] = Scheduler(engine).run([coroutine])
    return result


def explorations_of(nodes: Iterable[Node]) -> dict[str, Exploration]:
    """The strategies that nodes' settings name, by node name."""
    registry = load_registry()
    return {node.name: registry.make_exploration(node.exploration) for node in nodes}
