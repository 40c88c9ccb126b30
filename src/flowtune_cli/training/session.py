"""A session: a task with its model, adapters, exploration strategies and evaluators loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.optimizers import optimizer_choices
from ..config.settings import Settings
from ..engine.adapters import Adapters
from ..engine.blocked_weights import block_weights
from ..engine.engine import ModelEngine
from ..engine.limits import Limits
from ..flow.deviation import Evaluator, Trace
from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.node import Exploration, SelfLearning
from ..flow.request import Answer, Engine, Request
from ..flow.task import Task
from ..learning.learner import Learner
from ..learning.node_optimizers import NodeOptimizers
from ..models.devices import dtype_name
from ..models.loading import check_targets, load_model
from ..runtime.deviation import deviate
from ..runtime.play import play
from ..runtime.scheduler import Scheduler


@dataclass
class Session:
    """Everything that plays and trains one task.

    Args:
        settings: with the dtype that the model computes in, never "auto".
        explorations: the strategy of each node that deviates, by node name.
        evaluators: that of each node that deviates and has one, by node name.
        optimizers: the factories of the nodes' optimizers, by name.
    """

    task: Task
    settings: Settings
    adapters: Adapters
    engine: ModelEngine
    explorations: Mapping[str, Exploration]
    evaluators: Mapping[str, Evaluator]
    optimizers: Mapping[str, Any]

    def learner(self) -> Learner:
        """A learner with new optimizers."""
        learning = self.settings.learning
        optimizers = NodeOptimizers(
            self.adapters, learning, self.task.nodes_by_name, self.optimizers
        )
        engine = self.engine
        return Learner(engine.prefixes, engine.tokens, learning, optimizers, engine.limits)

    def scheduler(self, before_batch: Callable[[], None] = lambda: None) -> Scheduler:
        """Args: ``before_batch`` is called before each of the engine's batches, and may raise."""
        engine = _NotifyingEngine(self.engine, before_batch)
        return Scheduler(engine, in_flight=self.settings.engine.in_flight)

    def deviate(
        self, examples: Sequence[Example], before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Trace]]:
        """Play examples and deviate from them; yields (position, trace) as each is done."""
        return self.scheduler(before_batch).stream(
            deviate(
                self.task,
                example,
                explorations=self.explorations,
                evaluators=self.evaluators,
                seed=self.settings.training.seed,
            )
            for example in examples
        )

    def play(
        self, examples: Iterable[Example], before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Episode]]:
        """Play examples greedily; yields (position, episode) as each is done."""
        seed = self.settings.training.seed
        return self.scheduler(before_batch).stream(play(self.task, e, seed=seed) for e in examples)


@dataclass(frozen=True)
class _NotifyingEngine:
    """An engine that calls a function before each batch."""

    engine: Engine
    before_batch: Callable[[], None]

    def answer(self, requests: list[Request]) -> list[Answer]:
        self.before_batch()
        return self.engine.answer(requests)


def set_up(task: Task, settings: Settings, registry: Any) -> Session:
    """Load the model and put the task's adapters on it.

    Args:
        registry: finds models, exploration strategies, evaluators and optimizers by name.

    Raises:
        UsageError: a name or model is not there, or a node is to learn and has nothing to.
    """
    for node in task.nodes:
        learns = node.deviates or node.learn == "supervised"
        if learns and node.adapter is None and not isinstance(node, SelfLearning):
            raise UsageError(
                f"node '{node.name}' has neither an adapter nor a way to learn by itself: give its"
                " class SelfLearning, or set learn = 'nothing'"
            )
    explorations = {
        node.name: registry.make_exploration(node.exploration)
        for node in task.nodes
        if node.deviates
    }
    evaluators = {
        node.name: registry.make_evaluator(node.evaluator)
        for node in task.nodes
        if node.deviates and node.evaluator is not None
    }
    choices = [optimizer_choices(settings.learning, node)[0] for node in task.nodes]
    optimizers = {choice.name: registry.optimizer(choice.name) for choice in choices}
    loaded = load_model(settings.model, registry)
    model = settings.model.model_copy(update={"dtype": dtype_name(loaded.dtype)})
    settings = settings.model_copy(update={"model": model})
    limits = Limits.for_model(loaded.model)
    block_weights(loaded.model)
    check_targets(loaded.model, settings.adapter.targets)
    adapters = Adapters(
        loaded.model,
        {node.name: node.initial_head() for node in task.nodes if node.adapter is not None},
        settings.adapter,
        settings.training.seed,
    )
    engine = ModelEngine(adapters, loaded.tokenizer, loaded.context, limits)
    return Session(task, settings, adapters, engine, explorations, evaluators, optimizers)
