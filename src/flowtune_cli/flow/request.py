"""Requests of nodes to the engine, and its answers. Plain data: no model, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol, Union

from .prompt import Prompt, ToolCall

ConstraintKind = Literal["json_schema", "json_object", "regex", "choice", "text", "tool_calls"]
"""What an output has to be."""


@dataclass(frozen=True)
class Constraint:
    """What the model may write: at each place, only tokens with which an output can still fit.

    Args:
        kind: ``json_schema``: JSON that fits a schema; ``json_object``: any JSON object; ``regex``:
            a text that a regular expression matches as a whole; ``choice``: one of some texts;
            ``text``: any text; ``tool_calls``: a call of a tool of the prompt,
            in the form of the model's family.
        value: the schema as JSON text; the expression; a JSON list of texts; for ``tool_calls``
            the tool's name, or null for any tool, as JSON text. Empty for the others.

    Where the prompt has tools, an output may be a call of one instead, whatever the kind, with
    arguments that fit its schema; with ``text``, it may also be behind the text.
    """

    kind: ConstraintKind
    value: str = ""

    @property
    def is_json(self) -> bool:
        """Whether outputs are JSON."""
        return self.kind in ("json_schema", "json_object")


@dataclass(frozen=True)
class Decoding:
    """How the outputs of one prompt are decoded.

    Args:
        groups: outputs by group beam search with one beam a group, the greedy one included.
        diversity_penalty: taken from a token's log-probability for each earlier group that chose
            that token at the same position (Vijayakumar et al. 2016, Hamming diversity).
        samples: further outputs, sampled independently.
        temperature, top_p: of the samples; ``top_p`` is nucleus sampling.
        greedy: the first output is the greedy one; else it is a sample, too, and the only group.

    Raises:
        ValueError: several groups without a greedy one.
    """

    groups: int = 1
    diversity_penalty: float = 0.0
    samples: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = True

    def __post_init__(self) -> None:
        if not self.greedy and self.groups != 1:
            raise ValueError("where the first output is a sample, there is one group alone")

    @property
    def outputs(self) -> int:
        """How many outputs are decoded, the first one included."""
        return self.groups + self.samples

    @property
    def first(self) -> Decoding:
        """The decoding of the first output alone."""
        if self.greedy:
            return GREEDY
        return Decoding(temperature=self.temperature, top_p=self.top_p, greedy=False)

    @property
    def draws(self) -> bool:
        """Whether outputs depend on a seed."""
        return self.samples > 0 or not self.greedy


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
        logprobs: report each token's text and log-probability.
        constraint: what the outputs have to be; one that reaches ``max_new_tokens`` may be less.
        refusable: a program wrote it, so it may be more than the model can do (a chat longer than
            its context, a schema that is none): it is then answered by a ``Refusal``. Otherwise
            that is an error which ends the run.
        model: another model that answers, by its name; None is the base model. It is set by whoever
            runs the node, from the node's settings.
    """

    adapter: str | None
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    decoding: Decoding = GREEDY
    seed: tuple[int | str, ...] = ()
    logprobs: bool = False
    constraint: Constraint | None = None
    refusable: bool = False
    model: str | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """The log-likelihood of completions; await it with ``Call.ask``, which returns ``Scored``.

    Args:
        adapter: the node whose adapter scores; None is the base model.
        items: pairs of a prompt and its completions, one or more.
        rivals: the completions of a prompt are rival answers, such as labels: where one begins
            another, as "1" begins "10", each is scored with the token that ends an output.
            Special tokens in them are special.
        head: the node whose head the answer reports; None is the one whose adapter it is.
        model: see ``DecodeRequest``.
    """

    adapter: str | None
    items: tuple[tuple[Prompt, tuple[str, ...]], ...]
    rivals: bool = False
    head: str | None = None
    model: str | None = None


Request = Union[DecodeRequest, ScoreRequest]


@dataclass(frozen=True)
class Generation:
    """One decoded output.

    Args:
        text: without special tokens, cut before the stop string.
        tokens: the token ids as decoded, end or stop included: what learning raises or lowers.
        logprob: sum over tokens of the model's log-probability, in nats, at temperature 1 whatever
            the token was sampled at. Under a constraint it is that among the tokens that were
            allowed, so that a forced token counts nothing. None: another server does not say it.
        truncated: it reached ``max_new_tokens`` before it ended by itself.
        token_logprobs: each token's text, special tokens kept, and its log-probability, which add
            to ``logprob``; None unless the request asks for them.
        tool_calls: those that the model wrote beside the text, in the form of its family, if the
            prompt has tools; without ids. Where they are not well-formed, or the output is
            truncated or ends at a stop string, all is text.
        written: all of it as the model wrote it, special tokens kept and its end left out, where
            there are tool calls; else empty.
        token_count: how many tokens another server says it was; None: as many as ``tokens``.
    """

    text: str
    tokens: tuple[int, ...]
    logprob: float | None
    truncated: bool
    token_logprobs: tuple[tuple[str, float], ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    written: str = ""
    token_count: int | None = None

    @property
    def length(self) -> int:
        """In tokens."""
        return len(self.tokens) if self.token_count is None else self.token_count


@dataclass(frozen=True)
class Decoded:
    """The answer to a DecodeRequest.

    Args:
        prompt: as the model saw it, chat template included.
        prompt_tokens: its length in tokens, after truncation.
        dropped_tokens: how many tokens were truncated to fit the context window.
        generations: that of the flow first, at most ``decoding.outputs``; some may be equal.
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


@dataclass(frozen=True)
class Refusal:
    """The answer to a ``refusable`` request that the model cannot answer; says why."""

    reason: str


Answer = Union[Decoded, Scored, Refusal]


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
    it these are answered in whole batches. One with an attribute ``mixes_adapters`` that is true
    gets requests of all kinds and adapters at once; else those of one kind and adapter.
    """

    def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer a request, in their order: ``Decoded`` or ``Scored``."""
