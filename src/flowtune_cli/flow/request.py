"""Requests of nodes to the engine, and its answers. Plain data: no model, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, Union

from .prompt import Prompt


@dataclass(frozen=True)
class Decoding:
    """How the outputs of one prompt are decoded; the first output is always the greedy one.

    Args:
        groups: outputs by group beam search with one beam a group, the greedy one included.
        diversity_penalty: taken from a token's log-probability for each earlier group that chose
            that token at the same position (Vijayakumar et al. 2016, Hamming diversity).
        samples: further outputs, sampled independently.
        temperature, top_p: of the samples; ``top_p`` is nucleus sampling.
    """

    groups: int = 1
    diversity_penalty: float = 0.0
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def outputs(self) -> int:
        """How many outputs are decoded, the greedy one included."""
        return self.groups + self.samples


GREEDY = Decoding()
"""One output: the greedy one."""


@dataclass(frozen=True)
class DecodeRequest:
    """Generate text after a prompt; await it with ``Call.ask``, which returns ``Decoded``.

    Args:
        adapter: the node whose adapter generates; None is the base model.
        prompt: rendered by a ``Template``, or built from messages.
        max_new_tokens: an output is truncated at this many tokens.
        stop: an output ends before the first of these strings, which may hold special tokens.
        decoding: how many outputs, and how they are decoded.
        seed: samples depend on it alone; pass ``Call.seed``.
    """

    adapter: str | None
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    decoding: Decoding = GREEDY
    seed: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class ScoreRequest:
    """The log-likelihood of completions; await it with ``Call.ask``, which returns ``Scored``.

    Args:
        adapter: the node whose adapter scores; None is the base model.
        items: pairs of a prompt and its completions, one or more.
        rivals: the completions of a prompt are rival answers, such as labels: where one begins
            another, as "1" begins "10", each is scored with the token that ends an output.
            Special tokens in them are special.
    """

    adapter: str | None
    items: tuple[tuple[Prompt, tuple[str, ...]], ...]
    rivals: bool = False


Request = Union[DecodeRequest, ScoreRequest]


@dataclass(frozen=True)
class Generation:
    """One decoded output.

    Args:
        text: without special tokens, cut before the stop string.
        tokens: the token ids as decoded, end or stop included: what learning raises or lowers.
        logprob: sum over tokens of the model's log-probability, in nats.
        truncated: it reached ``max_new_tokens`` before it ended by itself.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float
    truncated: bool


@dataclass(frozen=True)
class Decoded:
    """The answer to a DecodeRequest.

    Args:
        prompt: as the model saw it, chat template included.
        prompt_tokens: its length in tokens, after truncation.
        dropped_tokens: how many tokens were truncated to fit the context window.
        generations: the greedy one first, at most ``decoding.outputs``; some may be equal.
        adapter_version: updates of the adapter when it answered; 0 for the base model.
    """

    prompt: str
    prompt_tokens: int
    dropped_tokens: int
    generations: tuple[Generation, ...]
    adapter_version: int


@dataclass(frozen=True)
class Likelihood:
    """The log-likelihood of one completion: sum over its tokens in nats, and their number."""

    logprob: float
    tokens: int

    @property
    def mean(self) -> float:
        """In nats per token."""
        return self.logprob / max(self.tokens, 1)


@dataclass(frozen=True)
class Scored:
    """The answer to a ScoreRequest.

    Args:
        prompts: one an item, as the model saw it.
        prompt_tokens, dropped_tokens: of all prompts together, see ``Decoded``.
        likelihoods: one tuple an item, with one ``Likelihood`` a completion, in their order.
        adapter_version: updates of the adapter when it answered; 0 for the base model.
        head: the node's parameters learned beside the adapter, by name; see ``Score``.
    """

    prompts: tuple[str, ...]
    prompt_tokens: int
    dropped_tokens: int
    likelihoods: tuple[tuple[Likelihood, ...], ...]
    adapter_version: int
    head: Mapping[str, float] = field(default_factory=dict)


Answer = Union[Decoded, Scored]


OnTokens = Callable[[int, tuple[int, ...]], None]
"""Called with the number of an output and its new token ids. Those with which a text ends before a
stop string are among them: they may come before it is known that the string is there."""


class EngineSession(Protocol):
    """Requests that come at any time, answered step by step.

    ``add`` may be called from any thread, and so may ``cancel`` of the futures that it returns:
    both take effect with the next step. Steps are made one at a time, in whichever thread. Adapters
    stay as they are while it is busy.
    """

    @property
    def busy(self) -> bool:
        """Whether there is anything for a step to do."""

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        """Have a request answered.

        Args:
            on_tokens: called in the thread of the steps, before the answer is there, where the
                engine has tokens one after the other.

        Returns:
            Its answer, set while a step is made as soon as it is there. Cancelled, it makes room.
        """

    def step(self) -> None:
        """Go on by a bit, such as a token for each output.

        Raises:
            Exception: what ``Engine.answer`` would raise. The futures of the requests that it
                concerns have it, too; all others go on with the next step.
        """


class Engine(Protocol):
    """Answers requests of nodes.

    An engine may also have a method ``session()`` that returns an ``EngineSession``. It is used
    while flows wait for something else than nodes, whose requests come one after the other; without
    it these are answered in whole batches.
    """

    def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer a request, in their order: ``Decoded`` or ``Scored``."""
