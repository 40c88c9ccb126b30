"""A session: a task with its model, adapters, exploration strategies and evaluators loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.optimizers import optimizer_choices
from ..config.settings import Settings
from ..engine.adapter_import import import_adapter
from ..engine.adapters import Adapters
from ..engine.blocked_weights import block_weights
from ..engine.engine import ModelEngine
from ..engine.limits import Limits
from ..engine.proof import real_texts
from ..engine.proof_cache import proved
from ..flow.adapters import check_adapters, link_adapters, settle
from ..flow.deviation import Deviation, Evaluator, Trace
from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.node import Datum, Exploration, SelfLearning
from ..flow.request import Answer, Engine, EngineSession, OnTokens, Request
from ..flow.task import Task
from ..learning.learner import Learner, Update
from ..learning.node_optimizers import NodeOptimizers, check_optimizers
from ..learning.peers import Peers
from ..models.chat_template import TextOptions
from ..models.determinism import fix_arithmetic, naming_the_setting
from ..models.devices import dtype_name
from ..models.loading import choose_devices, load_model
from ..models.out_of_memory import advising
from ..models.skeleton import build_skeleton
from ..models.targets import ALL_LINEAR, AUTO, fused_experts, resolve_targets
from ..runtime.batch_session import open_session
from ..runtime.deviation import Base, deviate, deviate_at, play_base
from ..runtime.effects import Effects
from ..runtime.event_loop import EpisodeLimits
from ..runtime.play import play
from ..runtime.replay import Seed
from ..runtime.scheduler import Scheduler
from .admission.learning import nothing_to_learn
from .carry_over import taken_nodes
from .other_models import engine_of, load_others, play_elsewhere

if TYPE_CHECKING:
    from ..rollouts.engine import VllmEngine

EXAMPLES_REMEMBERED = 64
"""Examples that are played before the engine's caches are cleared, which bounds its memory."""


@dataclass(frozen=True)
class Play:
    """An example to be played, with its effects; ``number`` is that of the pass, from 0."""

    example: Example
    effects: Effects = field(default_factory=Effects)
    number: int = 0


@dataclass
class Tally:
    """How many calls of nodes the engine has answered, those of rollouts included."""

    calls: int = 0


@dataclass
class Session:
    """Everything that plays and trains one task.

    Args:
        settings: with the dtype that the model computes in and the layers that are adapted, never
            "auto", the commit of a model of the hub, and the date that its chat template shows, if
            it shows one.
        explorations: the strategy of each node that deviates, by node name.
        evaluators: that of each node that deviates and has one, by node name.
        optimizers: the factories of the nodes' optimizers, by name.
        rollouts: has outputs decoded elsewhere while the block of ``rolling_out`` lasts.
        tally: what was done so far.
    """

    task: Task
    settings: Settings
    adapters: Adapters
    engine: ModelEngine
    explorations: Mapping[str, Exploration]
    evaluators: Mapping[str, Evaluator]
    optimizers: Mapping[str, Any]
    rollouts: VllmEngine | None = None
    tally: Tally = field(default_factory=Tally)

    def connect(self) -> None:
        """Find the servers that decode while it trains, if engine.rollouts asks for some.

        Raises:
            UsageError: a setting does not fit, or a server cannot be used.
            FlowtuneError: a server has another base model.
        """
        if self.settings.engine.rollouts == "vllm" and self.rollouts is None:
            from ..rollouts.connect import connect

            self.rollouts = connect(self.settings, self.engine)

    @contextmanager
    def rolling_out(self, directory: Path, label: str) -> Iterator[None]:
        """Play with outputs that are decoded where engine.rollouts says, while the block lasts.

        Args:
            directory: for adapters that servers read.
            label: with which the adapters' names begin there.
        """
        self.connect()
        if self.rollouts is None:
            yield
            return
        try:
            with self.rollouts.publishing(directory, label):
                yield
        finally:
            self.rollouts.close()
            self.rollouts = None

    def learner(self) -> Learner:
        """A learner with new optimizers."""
        learning = self.settings.learning
        optimizers = NodeOptimizers(
            self.adapters, learning, self.task.nodes_by_name, self.optimizers
        )
        engine = self.engine
        return Learner(engine.prefixes, engine.tokens, learning, optimizers, engine.limits)

    def update(
        self, learner: Learner, adapter: str, data: Mapping[str, Sequence[Datum]]
    ) -> dict[str, Update]:
        """Let an adapter learn from its nodes' data, see ``Learner.update``.

        Raises:
            OutOfMemory: says which settings to lower.
        """
        with advising(self._memory_advice), naming_the_setting():
            return learner.update(adapter, data)

    def update_together(
        self, learner: Learner, data: Mapping[str, Mapping[str, Sequence[Datum]]], peers: Peers
    ) -> dict[str, dict[str, Update]]:
        """Let adapters make a step each, see ``Learner.update_together``; raises as ``update``."""
        with advising(self._memory_advice), naming_the_setting():
            return learner.update_together(data, peers)

    def _memory_advice(self) -> str:
        """What takes less memory, with the present values; batches were made smaller already."""
        model, adapter = self.settings.model, self.settings.adapter
        lower = [f"model.context = {self.engine.tokens.context}"]
        lower += [
            f"{field} = {getattr(node, field)} of node '{node.name}'"
            for field in ("max_new_tokens", "alternatives")
            for node in self.task.nodes
            if getattr(node, field, None)
        ]
        lower += [f"adapter.rank = {adapter.rank}"]
        other = ["model.dtype = 'bfloat16'"] * (model.dtype == "float32")
        other += ["model.quantization = 'nf4'"] * (model.quantization == "none")
        other += ["a smaller model.name"]
        return (
            f"Free memory on {self.adapters.model.device}, lower one of {', '.join(lower)}, or set"
            f" {' or '.join(other)}."
        )

    def scheduler(self, before_batch: Callable[[], None] = lambda: None) -> Scheduler:
        """A scheduler of these settings.

        Args:
            before_batch: called before each of the engine's batches and steps, and now and then
                while flows wait for something else; may raise.
        """
        if self.rollouts is not None and self.rollouts.is_open:
            self.rollouts.fleet.check = before_batch
        in_flight = self.settings.engine.in_flight
        return Scheduler(self.advising_engine, in_flight, check=before_batch, limits=self.limits)

    @property
    def advising_engine(self) -> Engine:
        """What answers requests; where it has no memory, it says which settings to lower."""
        chosen: Engine = self.engine
        if self.rollouts is not None and self.rollouts.is_open:
            chosen = self.rollouts
        return _AdvisingEngine(chosen, self._memory_advice, self.tally)

    @property
    def limits(self) -> EpisodeLimits:
        """What an episode or rollout may take."""
        training = self.settings.training
        return EpisodeLimits(
            training.max_steps,
            training.episode_timeout,
            self.settings.engine.effects,
            training.effect_timeout,
            training.effect_retries,
        )

    def deviate(
        self, examples: Sequence[Example], before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Trace]]:
        """Play examples and deviate from them; yields (position, trace) as each is done."""
        return self.deviate_plays([Play(example) for example in examples], before_batch)

    def deviate_plays(
        self, plays: Sequence[Play], before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Trace]]:
        """As ``deviate``, in some pass over the examples, and with effects that are known."""
        return self.scheduler(before_batch).stream(
            deviate(
                self.task,
                play.example,
                explorations=self.explorations,
                evaluators=self.evaluators,
                seed=self._seed(play.number),
                deviations=self.settings.training.deviations,
                rollouts=self.settings.training.rollouts,
                effects=play.effects,
            )
            for play in plays
        )

    def play_bases(
        self, plays: Sequence[Play], before_batch: Callable[[], None]
    ) -> Iterator[tuple[int, Base]]:
        """The first half of ``deviate_plays``: episodes, and the steps to deviate at."""
        return self.scheduler(before_batch).stream(
            play_base(
                self.task,
                play.example,
                explorations=self.explorations,
                seed=self._seed(play.number),
                deviations=self.settings.training.deviations,
                effects=play.effects,
            )
            for play in plays
        )

    def deviate_from(
        self,
        bases: Sequence[tuple[Base, Sequence[int], Effects]],
        before_batch: Callable[[], None],
    ) -> Iterator[tuple[int, list[Deviation]]]:
        """The second half: deviate from each episode at these of its steps, with its effects."""
        return self.scheduler(before_batch).stream(
            deviate_at(
                self.task,
                base,
                steps,
                evaluators=self.evaluators,
                rollouts=self.settings.training.rollouts,
                effects=effects,
            )
            for base, steps, effects in bases
        )

    def _seed(self, number: int) -> Seed:
        """What a pass over the examples draws its noise from."""
        seed = self.settings.training.seed
        return seed if not number else f"{seed}/pass {number}"

    def play(
        self, examples: Iterable[Example], before_batch: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, Episode]]:
        """Play examples greedily; yields (position, episode) as each is done."""
        seed = self.settings.training.seed
        return self.scheduler(before_batch).stream(play(self.task, e, seed=seed) for e in examples)

    def play_all(
        self,
        examples: Sequence[Example],
        before_batch: Callable[[], None] = lambda: None,
        *,
        seed: Seed,
    ) -> Iterator[tuple[int, Episode]]:
        """As ``play``, for however many examples, with this noise, and with no trace of it left.

        The engine forgets what it knew before, now and then, and at the end.
        """
        try:
            for start in range(0, len(examples), EXAMPLES_REMEMBERED):
                self.engine.forget()
                chunk = examples[start : start + EXAMPLES_REMEMBERED]
                played = self.scheduler(before_batch).stream(
                    play(self.task, example, seed=seed) for example in chunk
                )
                for position, episode in played:
                    yield start + position, episode
        finally:
            self.engine.forget()


@dataclass(frozen=True)
class _AdvisingEngine:
    """An engine that says what to do without memory, and counts its answers."""

    engine: Engine
    memory_advice: Callable[[], str]
    tally: Tally

    @property
    def mixes_adapters(self) -> bool:
        return getattr(self.engine, "mixes_adapters", False)

    def answer(self, requests: list[Request]) -> list[Answer]:
        with advising(self.memory_advice), naming_the_setting():
            answers = self.engine.answer(requests)
        self.tally.calls += len(answers)
        return answers

    def session(self) -> EngineSession:
        return _AdvisingSession(open_session(self.engine), self.memory_advice, self.tally)


@dataclass(frozen=True)
class _AdvisingSession:
    """The same of a session."""

    inner: EngineSession
    memory_advice: Callable[[], str]
    tally: Tally

    @property
    def busy(self) -> bool:
        return self.inner.busy

    @property
    def waiting(self) -> int:
        return getattr(self.inner, "waiting", 0)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        answer = self.inner.add(request, on_tokens)
        answer.add_done_callback(self._count)
        return answer

    def step(self) -> None:
        with advising(self.memory_advice), naming_the_setting():
            self.inner.step()

    def _count(self, answer: Future[Answer]) -> None:
        self.tally.calls += 1


def check_learning(task: Task, settings: Settings, registry: Any) -> None:
    """Check that what is needed for learning can be made, before the model is loaded.

    Raises:
        UsageError: an optimizer is not there, or its options do not fit; or no node can learn.
    """
    nothing = nothing_to_learn(task)
    if nothing is not None:
        raise UsageError(f"{nothing.message}. {nothing.advice}")
    check_optimizers(settings.learning, task.nodes, _optimizers(task, settings, registry))


def _optimizers(task: Task, settings: Settings, registry: Any) -> dict[str, Any]:
    choices = [optimizer_choices(settings.learning, node)[0] for node in task.nodes]
    return {choice.name: registry.optimizer(choice.name) for choice in choices}


def set_up(
    task: Task,
    settings: Settings,
    registry: Any,
    checkpoint: Path | None = None,
    renamed: Mapping[str, str] | None = None,
    *,
    on_phase: Callable[[str], None] = lambda text: None,
) -> Session:
    """Load the model and put the task's adapters on it.

    Args:
        registry: finds models, exploration strategies, evaluators and optimizers by name.
        checkpoint: the one that the caller will load. A node that learns nothing has an adapter if
            it has one there.
        renamed: by the name of a node, that which it has there, where it is another.
        on_phase: told what is done instead of loading the model, if that takes long.

    Raises:
        UsageError: a name or model is not there, or a node is to learn and has nothing to.
    """
    settle(task.nodes)
    check_adapters(task.nodes)
    play_elsewhere(task.nodes)
    trained = taken_nodes(checkpoint, task.nodes, renamed or {})
    link_adapters(task.nodes, trained)
    for node in task.nodes:
        learns = node.deviates or node.learn == "supervised"
        if learns and node.adapter_name is None and not isinstance(node, SelfLearning):
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
    optimizers = _optimizers(task, settings, registry)
    fix_arithmetic(choose_devices(settings.model)[0], settings.engine.deterministic)
    loaded = load_model(settings.model, registry, partial(check_skeleton, settings))
    # A hub's model may be another one tomorrow, and what is learned belongs to this one.
    revision = settings.model.revision or loaded.commit
    chosen = {"dtype": dtype_name(loaded.dtype), "revision": revision}
    model = settings.model.model_copy(update=chosen)
    settings = settings.model_copy(update={"model": model})
    others = load_others(task.nodes, settings.model, registry)  # before memory is shared out
    limits = Limits.for_model(loaded.model)
    settings = _with_targets(settings, loaded.model)
    texts = list(real_texts(lambda text: loaded.tokenizer(text)["input_ids"]))
    with naming_the_setting():
        paths = proved(
            loaded.model,
            loaded.name,
            settings.adapter,
            loaded.context,
            texts,
            on_proof=lambda: on_phase(f"proving how {loaded.name} can be run fast"),
        ).paths
    block_weights(loaded.model)
    adapters = Adapters(
        loaded.model,
        {node.name: node.initial_head() for node in task.nodes if node.adapter_name is not None},
        settings.adapter,
        settings.training.seed,
        {node.name: node.share for node in task.nodes if node.share is not None},
    )
    for node in task.nodes:
        has_one = node.adapter_name is not None
        if node.start is not None and has_one and node.name not in trained:
            import_adapter(adapters, node.name, node.start)
    engine = ModelEngine(
        adapters,
        loaded.tokenizer,
        loaded.context,
        limits,
        loaded.model_context,
        TextOptions.of(settings.model),
        paths,
        {other.name: engine_of(other, settings.model) for other in others},
    )
    # A template's clock shows the same day for as long as the run lasts.
    date = engine.tokens.template.date or settings.model.date
    model = settings.model.model_copy(update={"date": date})
    settings = settings.model_copy(update={"model": model})
    return Session(task, settings, adapters, engine, explorations, evaluators, optimizers)


def check_directory(directory: Path, settings: Settings) -> None:
    """Refuse a model by its config.json, on whatever machine it is to be used.

    Raises:
        UsageError: it cannot be played with or adapted.
    """
    skeleton = build_skeleton(directory, settings.model)
    if skeleton is not None:
        check_skeleton(settings, skeleton)


def check_skeleton(settings: Settings, model: Any) -> None:
    """Refuse a model without weights that cannot be played with or adapted.

    Raises:
        UsageError: the layers to adapt do not exist.
    """
    resolve_targets(model, settings.adapter.targets)


def _with_targets(settings: Settings, model: Any) -> Settings:
    """The settings with the layers that "auto" finds, so that a run goes on with the same."""
    targets = settings.adapter.targets
    experts = fused_experts(model)
    if targets == ALL_LINEAR and experts:
        print(
            "adapter.targets = 'all-linear': the experts' matrices"
            f" ({', '.join(experts)}) are no layers and are not adapted; these are:"
            f" {', '.join(resolve_targets(model, targets))}",
            file=sys.stderr,
        )
    if targets != AUTO:
        return settings
    adapter = settings.adapter.model_copy(update={"targets": resolve_targets(model, targets)})
    return settings.model_copy(update={"adapter": adapter})
