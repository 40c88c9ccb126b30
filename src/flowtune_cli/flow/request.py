"""Requests of nodes to the engine, and its answers. Plain data: no model, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
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
        return self.groups + self.samples


GREEDY = Decoding()


@dataclass(frozen=True)
class DecodeRequest:
    """Generate text after a prompt with the adapter of a node.

    ``adapter`` None means the base model. Samples depend on ``seed`` alone.
    """

    adapter: str | None
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    decoding: Decoding = GREEDY
    seed: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class ScoreRequest:
    """The log-likelihood of each completion after its prompt, with the adapter of a node.

    ``items`` pairs a prompt with one or more completions.
    """

    adapter: str | None
    items: tuple[tuple[Prompt, tuple[str, ...]], ...]


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
    """The answer to a DecodeRequest; ``generations[0]`` is the greedy one."""

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
        return self.logprob / max(self.tokens, 1)


@dataclass(frozen=True)
class Scored:
    """The answer to a ScoreRequest: for each item the rendered prompt and its likelihoods."""

    prompts: tuple[str, ...]
    prompt_tokens: int
    dropped_tokens: int
    likelihoods: tuple[tuple[Likelihood, ...], ...]
    adapter_version: int
    head: Mapping[str, float] = field(default_factory=dict)
    """The parameters learned beside the adapter, by name; see ``flow.node.Score``."""


Answer = Union[Decoded, Scored]


class Engine(Protocol):
    """Answers requests, in their order."""

    def answer(self, requests: list[Request]) -> list[Answer]: ...
