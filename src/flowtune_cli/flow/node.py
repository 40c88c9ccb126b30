"""A node of a flow: turns a call's inputs into an output, and defines how that output is learned.

Every output of a node that uses a language model carries its *score*: a linear model over
log-likelihoods and features that ranks the node's possible outputs. Preferences between two outputs
need nothing else, whatever the node's type: DPO raises the score of the chosen output over that of
the rejected one, relative to the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

from .endpoint import Elsewhere
from .prompt import Message, Prompt
from .request import Constraint, Decoding, Request

if TYPE_CHECKING:
    from .deviation import Preference

Ask = Callable[[Request], Awaitable[Any]]
"""Await the engine: ``Decoded`` for a ``DecodeRequest``, ``Scored`` for a ``ScoreRequest``."""


@dataclass(frozen=True)
class Term:
    """``coefficient`` times the log-likelihood of a completion after a prompt.

    Args:
        completion: token ids as they were decoded, or a text.
        mean: per token instead of summed.
        rivals: the answers, itself included, that its likelihood is to tell it apart from; see
            ``ScoreRequest``.
        constraint: under which it was decoded. Its tokens are then scored among those that were
            allowed, so that forced ones count nothing.
    """

    prompt: Prompt
    completion: str | tuple[int, ...]
    coefficient: float = 1.0
    mean: bool = False
    rivals: tuple[str, ...] = ()
    constraint: Constraint | None = None


LIKELIHOOD = "likelihood"
"""The feature of every score that is the sum of its terms."""

Head = Mapping[str, Any]
"""Named parameters of a node that are learned beside its adapter, each a number or a tensor."""


@dataclass(frozen=True)
class Score:
    """The log-policy of an output, up to a constant that its rivals share.

    A linear model over named features: the sum of each feature times the head's parameter of the
    same name. The likelihood (the sum of the terms) is a feature, too, whose parameter is 1 where
    the head has none; a feature of that name is added to the sum of the terms.

    Args:
        terms: log-likelihoods, each times its coefficient.
        features: numbers that need no language model, by name.
    """

    terms: tuple[Term, ...] = ()
    features: Mapping[str, float] = field(default_factory=dict)

    def value(self, likelihood: Any, head: Head) -> Any:
        """The score.

        Args:
            likelihood: the sum of the terms, a number or a tensor.
            head: the node's parameters; every feature but the likelihood has one.
        """
        likelihood = likelihood + self.features.get(LIKELIHOOD, 0.0)
        total = head.get(LIKELIHOOD, 1.0) * likelihood
        for name, feature in self.features.items():
            if name != LIKELIHOOD:
                total = total + head[name] * feature
        return total


@dataclass(frozen=True)
class NodeOutput:
    """One output that a node could give.

    Args:
        value: what the flow gets.
        text: how it is displayed.
        score: what learning raises or lowers; None for a node that learns by itself.
        logprob: the model's log-probability of it, in nats, where there is one.
        tokens: how many tokens were decoded for it.
        truncated: it reached the token limit before it ended.
    """

    value: Any
    text: str
    score: Score | None = None
    logprob: float | None = None
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class Response:
    """A node's answer to one call: the flow's output, and the requested alternatives.

    Args:
        prompt: as the model saw it, chat template included.
        outputs: that of the flow first, which is the greedy one unless the call samples; all
            differ.
        options: every possible output, best first, where they can be enumerated.
        adapter_version: updates of the node's adapter when it answered.
        prompt_tokens: tokens of the prompts; ``dropped_tokens`` were truncated to fit.
        detail: figures worth storing (JSON values), such as every candidate's score.
        sampled: the node itself drew the flow's output from ``Call.seed``. Where the engine draws,
            it is known without this.
    """

    prompt: str
    outputs: tuple[NodeOutput, ...]
    options: tuple[NodeOutput, ...] = ()
    adapter_version: int = 0
    prompt_tokens: int = 0
    dropped_tokens: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)
    sampled: bool = False


@dataclass(frozen=True)
class PreferenceDatum:
    """Raise ``chosen`` over ``rejected``, by DPO against the node's reference adapter.

    The loss is ``-weight * log sigmoid(beta * (policy margin - reference margin))``, where a margin
    is the chosen score minus the rejected one (Rafailov et al. 2023, arXiv:2305.18290).

    Args:
        node: whose adapter and head learn.
        weight: the preference's margin, times the node's ``weight``.
    """

    node: str
    chosen: Score
    rejected: Score
    weight: float = 1.0


@dataclass(frozen=True)
class ChoiceDatum:
    """Make ``options[right]`` the likeliest under a softmax over the options' scores."""

    node: str
    options: tuple[Score, ...]
    right: int
    weight: float = 1.0


@dataclass(frozen=True)
class TextDatum:
    """Raise the likelihood of a text and its end-of-turn token after a prompt (mean per token).

    Args:
        completion: the text; or an assistant's message, as the model's chat template writes it.
    """

    node: str
    prompt: Prompt
    completion: str | Message
    weight: float = 1.0


Datum = Union[PreferenceDatum, ChoiceDatum, TextDatum]


class Exploration(ABC):
    """An exploration strategy: describes how a node's alternatives are decoded."""

    name: ClassVar[str]

    @abstractmethod
    def decoding(self, alternatives: int) -> Decoding:
        """The decoding that gives the greedy output and up to ``alternatives`` others."""


@dataclass(frozen=True)
class Call:
    """One call of a node, as the node sees it.

    Args:
        inputs: the keyword arguments of ``episode.call``.
        ask: awaits the engine.
        exploration: how to decode alternatives; None when none are wanted.
        seed: (seed, example id, node, n-th call of it), which alone determines its randomness. Of
            calls with a seed of their own (``Node.own_seed``) it is the n-th with that one. A
            rollout that is played again with other noise has one more part.
    """

    inputs: Mapping[str, Any]
    ask: Ask
    exploration: Exploration | None = None
    seed: tuple[int | str, ...] = ()

    @property
    def wants_alternatives(self) -> bool:
        """Whether the response should hold alternatives besides the flow's output."""
        return self.exploration is not None


Learn = Literal["preferences", "supervised", "nothing"]
"""What a node learns from."""


Serves = Literal["chat", "written", "text"]
"""What a node answers to a program that is served, see ``Node``."""


@dataclass(kw_only=True)
class Node(ABC):
    """The base of all node types. Every field but the name can be set in the settings.

    Class attributes:
        kind: by which settings and messages call the type.
        uses_adapter: whether its requests are answered with an adapter of its own.
        serves: how ``flowtune serve`` answers for it. ``"chat"``: a call takes messages, and its
            value is a ``ChatAnswer``. ``"text"``: its value is a text, such as a label.
            ``"written"``: a text, too, and what the model writes to the call's one request but for
            white space around it, so that it can be streamed. None: not at all.

    Args:
        name: what the flow calls it by; also the name of its adapter, if it has one of its own.
        reward: the reward that judges its outputs.
        evaluator: judges them in place of a reward, whatever ``reward`` says: its name, or a table
            of the name and its options, such as ``{name = "llm_judge", tie = 0.1}``.
        learn: from preferences (by deviations), supervised (by ``episode.target``), or nothing: it
            stays as it is. If it learned in the run that is gone on from, it plays the adapter that
            it has from there, else the base model.
        exploration: the strategy that finds alternatives: its name, or a table of the name and
            its options, such as ``{name = "multi_sample", temperature = 1.2}``.
        alternatives: how many alternative outputs are tried at each step.
        deviations: at how many of its steps in an episode they are tried, drawn by the seed; 0 is
            at all, which for long episodes is much.
        pairs: compare the episode with each alternative, or only with the best.
        weight: multiplies this node's losses.
        optimizer: options that replace single ones of learning.optimizer for this node, or another
            optimizer: {name = ...} with its options.
        adapter: "own", or "none": it plays the base model, and learns nothing.
        share: the node whose adapter it uses instead of one of its own, with its reference and
            optimizer. Nodes that share one adapter train it together, one update a mini-batch.
        model: another model that plays it, frozen, and lets it learn nothing: one that model.name
            would take, loaded beside the base model; or an OpenAI-compatible endpoint, {url =
            "https://.../v1", name = "...", key = "ENVIRONMENT_VARIABLE", timeout = 60, retries = 3,
            price = {input = 0.5, output = 1.5}}.
        start: a LoRA adapter in PEFT's format, a directory, that its adapter and its reference
            start from. A node that learns nothing stays with it.
        head_optimizer: the same for the parameters that are learned beside the adapter, over the
            node's own optimizer.
    """

    kind: ClassVar[str]
    uses_adapter: ClassVar[bool] = True
    serves: ClassVar[Serves | None] = None
    scores: ClassVar[bool] = False
    """Whether it asks for the log-likelihoods of texts that it gives."""

    name: str
    reward: str | None = None
    evaluator: str | Mapping[str, Any] | None = None
    learn: Learn = "preferences"
    exploration: str | Mapping[str, Any] = "diverse_beam"
    alternatives: int = 1
    deviations: int = 0
    pairs: Literal["each", "best"] = "each"
    weight: float = 1.0
    optimizer: Mapping[str, Any] | str | None = None
    head_optimizer: Mapping[str, Any] | str | None = None
    adapter: Literal["own", "none"] = "own"
    share: str | None = None
    model: str | Mapping[str, Any] | None = None
    start: Path | None = None
    elsewhere: Elsewhere | None = field(default=None, init=False, repr=False, compare=False)
    """What answers its requests in place of the engine. No setting; ``model`` says what."""
    has_learned: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether there is an adapter for it, though it learns nothing now. No setting."""

    @property
    def deviates(self) -> bool:
        """Whether alternatives of this node's outputs are rolled out."""
        judged = self.reward is not None or self.evaluator is not None
        return self.learn == "preferences" and judged and self.alternatives > 0

    @property
    def other_model(self) -> str | None:
        """The model beside the base model that answers its requests, by name; None: it does not."""
        return self.model if isinstance(self.model, str) else None

    @property
    def adapter_name(self) -> str | None:
        """The adapter that answers its requests, by its owner's name; None is the base model."""
        if not self.uses_adapter or self.adapter == "none" or self.model is not None:
            return None
        has_one = self.learn != "nothing" or self.has_learned or self.start is not None
        return (self.share or self.name) if has_one else None

    @abstractmethod
    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        """Everything that this call shows the model; a replayed call must show the same."""

    @abstractmethod
    async def respond(self, call: Call) -> Response:
        """Answer one call: the flow's output first, then alternatives if the call explores."""

    @abstractmethod
    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """What to learn from ``gold``, the right output of this call.

        Raises:
            UsageError: this type of node cannot learn from such a target.
        """

    def own_seed(self, inputs: Mapping[str, Any]) -> int | None:
        """The seed that a call gives, if it does: only calls with the same one are counted then."""
        return None

    @property
    def input_names(self) -> frozenset[str]:
        """The inputs that a call has to give, as far as that is known."""
        return frozenset()

    def initial_head(self) -> Mapping[str, float]:
        """The parameters learned beside the adapter, by name, and where they start; see ``Score``.

        A parameter's feature should be of the order of one.
        """
        return {}


class SelfLearning(ABC):
    """Mixin for a node with a model of its own, which needs no adapter.

    Its outputs have no score; it learns by itself from the same preferences and targets.
    """

    @abstractmethod
    def update(
        self, preferences: Sequence[Preference], targets: Sequence[tuple[Response, Any]]
    ) -> float:
        """Learn from one mini-batch; returns the mean loss.

        Args:
            preferences: between two of the node's outputs; empty unless it learns from them.
            targets: (response of the call, gold); empty unless the node is supervised.
        """

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Everything it has learned, as JSON values for ``load_state``."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace what it has learned by what ``state`` returned."""
