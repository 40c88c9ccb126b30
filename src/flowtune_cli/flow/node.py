"""A node of a flow: turns a call's inputs into an output, and says how that output is learned.

Every output of a node that uses a language model carries its *score*: an expression over
log-likelihoods whose value orders the node's possible outputs. Preferences between two outputs
then need nothing else, whatever the node's type: DPO raises the score of the chosen output over
that of the rejected one, relative to the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Union

from .prompt import Prompt
from .request import Decoding, Request

Ask = Callable[[Request], Awaitable[Any]]
"""Await the engine: ``Decoded`` for a ``DecodeRequest``, ``Scored`` for a ``ScoreRequest``."""


@dataclass(frozen=True)
class Term:
    """``coefficient`` times the log-likelihood of a completion after a prompt.

    Args:
        completion: token ids as they were decoded, or a text.
        mean: per token instead of summed.
    """

    prompt: Prompt
    completion: str | tuple[int, ...]
    coefficient: float = 1.0
    mean: bool = False


@dataclass(frozen=True)
class Score:
    """A sum of terms: the log-policy of an output, up to a constant that its rivals share.

    Args:
        measures: figures that need no model; each is added times its weight in the node's
            calibration.
        known: is added as it is: a sum of terms as it was when played, which teaches the weights
            of measures, but not the adapter.
        calibrated: the sum x becomes ``scale * (x - threshold)``, and these two are what the
            node's calibration holds.
    """

    terms: tuple[Term, ...] = ()
    measures: tuple[float, ...] = ()
    known: float = 0.0
    calibrated: bool = False

    def value(self, likelihoods: Any, calibration: Sequence[Any]) -> Any:
        """What it comes to.

        Args:
            likelihoods: the sum of the terms, each times its coefficient.
            calibration: the node's; a number or tensor each, as the sum.
        """
        total = likelihoods + self.known
        if self.calibrated:
            scale, threshold = calibration
            return scale * (total - threshold)
        # A rival, such as the second label of a Rank by choice, may have no measures.
        for weight, measure in zip(calibration, self.measures, strict=False):
            total = total + weight * measure
        return total


@dataclass(frozen=True)
class NodeOutput:
    """One output that a node could give.

    Args:
        value: what the flow gets.
        text: what a person sees.
        score: how learning raises or lowers it; None for a node that learns by itself.
        logprob: the model's log-probability of it, in nats, where there is one.
        tokens: how many tokens were decoded for it.
        truncated: it was cut off before it ended by itself.
    """

    value: Any
    text: str
    score: Score | None = None
    logprob: float | None = None
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class Response:
    """What a node answers to one call: the greedy output, and the alternatives asked for.

    Args:
        prompt: as the model saw it, template and all.
        outputs: the greedy one first; the others differ from it and from each other.
        options: every output it could have given, best first, where they can be listed.
        adapter_version: how many updates the node's adapter had when it answered.
        prompt_tokens: how many tokens the prompts had; ``dropped_tokens`` were cut to fit.
        detail: figures worth storing (JSON values), such as the score of every candidate.
    """

    prompt: str
    outputs: tuple[NodeOutput, ...]
    options: tuple[NodeOutput, ...] = ()
    adapter_version: int = 0
    prompt_tokens: int = 0
    dropped_tokens: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreferenceDatum:
    """Raise ``chosen`` over ``rejected``, by DPO against the node's reference adapter."""

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
    """Raise the likelihood of a text and its end after a prompt (mean over tokens)."""

    node: str
    prompt: Prompt
    completion: str
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
        seed: (seed, example id, step), all that this call's randomness depends on.
    """

    inputs: Mapping[str, Any]
    ask: Ask
    exploration: Exploration | None = None
    seed: tuple[int | str, ...] = ()

    @property
    def explore(self) -> bool:
        return self.exploration is not None


Learn = Literal["preferences", "supervised", "nothing"]


@dataclass(kw_only=True)
class Node(ABC):
    """What every node has, whatever its type. Every field but the name can be set in the settings.

    Args:
        name: by which the flow calls it; also the name of its adapter.
        reward: the stated reward that its outputs are judged by.
        evaluator: an evaluator to judge by instead, where there is no reward.
        learn: from preferences (by deviations), supervised (by ``episode.target``), or not.
        exploration: the strategy that finds alternatives: its name, or {name = ...} with options.
        alternatives: how many alternative outputs are tried at each step.
        pairs: compare the episode with each alternative, or with the best of them alone.
        weight: multiplies this node's losses.
        optimizer: options that replace single ones of learning.optimizer for this node, or another
            optimizer: {name = ...} with its options.
        head_optimizer: the same for the parameters that are learned beside the adapter, over the
            node's own optimizer.
    """

    kind: ClassVar[str]
    uses_adapter: ClassVar[bool] = True

    name: str
    reward: str | None = None
    evaluator: str | None = None
    learn: Learn = "preferences"
    exploration: str | Mapping[str, Any] = "diverse_beam"
    alternatives: int = 1
    pairs: Literal["each", "best"] = "each"
    weight: float = 1.0
    optimizer: Mapping[str, Any] | str | None = None
    head_optimizer: Mapping[str, Any] | str | None = None

    @property
    def deviates(self) -> bool:
        """Whether alternatives of this node's outputs are rolled out."""
        judged = self.reward is not None or self.evaluator is not None
        return self.learn == "preferences" and judged and self.alternatives > 0

    @property
    def adapter(self) -> str | None:
        """The adapter that answers its requests; None is the base model."""
        return self.name if self.uses_adapter and self.learn != "nothing" else None

    @abstractmethod
    def shown(self, inputs: Mapping[str, Any]) -> str:
        """All that this call puts before the model, as text: a replayed call must show the same."""

    @abstractmethod
    async def respond(self, call: Call) -> Response:
        """Answer one call: the greedy output first, then alternatives if the call explores."""

    @abstractmethod
    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """What to learn when ``gold`` would have been the right output of this call.

        Raises:
            UsageError: this type of node cannot learn from such a target.
        """

    def initial_calibration(self) -> tuple[float, ...]:
        """What is learned beside the adapter starts from: see ``Score``; nothing if empty."""
        return ()


class SelfLearning(ABC):
    """Mixed into a node that has a model of its own, and needs no adapter.

    Its outputs have no score; it learns from the same preferences and targets by itself.
    """

    @abstractmethod
    def update(self, preferences: Sequence[Any], targets: Sequence[tuple[Response, Any]]) -> float:
        """Learn from one batch; returns the mean loss."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Everything it has learned, as JSON values; ``load_state`` takes it back."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None: ...
