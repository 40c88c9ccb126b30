"""The engine: answers the requests of many episodes at once, and remembers its answers.

An answer is a function of the adapter's version, the prompt and, where it is sampled, the seed. So
a request that comes again is answered from memory, for one mini-batch: ``forget`` empties it, so
that what a mini-batch computes depends on its adapters and examples alone.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..flow.errors import UsageError
from ..flow.prompt import Prompt
from ..flow.request import (
    Answer,
    Decoded,
    DecodeRequest,
    EngineSession,
    Generation,
    Likelihood,
    Refusal,
    Request,
    Scored,
    ScoreRequest,
)
from ..models.chat_template import TextOptions
from ..models.constraints import Grammar
from ..models.tokens import Encoded, Tokens
from .adapters import Adapters
from .decoding import Decoder
from .likelihoods import Completion
from .limits import Limits
from .model_session import ModelSession
from .packing import Ids
from .paths import Paths
from .prefix_cache import PrefixCache
from .rows import TokenizedRequest
from .scoring import score
from .several_models import SeveralSessions

_NO_OPTIONS = TextOptions()


class DecodeKey(NamedTuple):
    """All that the outputs of a request depend on."""

    adapter: str | None
    version: int
    request: TokenizedRequest

    @property
    def first(self) -> DecodeKey:
        """That of its first output alone."""
        return self._replace(request=self.request.first)


class _ScoreKey(NamedTuple):
    """All that a completion's likelihood depends on."""

    adapter: str | None
    version: int
    completion: Completion


class ModelEngine:
    """Answers requests with one base model and its adapters.

    Args:
        adapters: the model with its adapters.
        tokenizer: the model's.
        context: longest prompt plus output, in tokens.
        limits: how much is computed and remembered at once.
        model_context: the longest that the model can read, if that is known.
        options: how texts become tokens, beside what the tokenizer says.
        paths: how the model is run; if None, what its configuration does not rule out.
        others: of other models, by the names that requests give; they have no adapters.
    """

    def __init__(
        self,
        adapters: Adapters,
        tokenizer: Any,
        context: int,
        limits: Limits,
        model_context: int | None = None,
        options: TextOptions = _NO_OPTIONS,
        paths: Paths | None = None,
        others: Mapping[str, ModelEngine] | None = None,
    ) -> None:
        self.adapters = adapters
        self.others = dict(others or {})
        self.limits = limits
        self.tokens = Tokens(tokenizer, context, model_context, options=options)
        self.prefixes = PrefixCache(adapters, limits, paths)
        ends = _end_tokens(adapters.model, tokenizer) | {self.tokens.end_of_turn}
        self.decoder = Decoder(self.prefixes, self.tokens, ends)
        self._generations: dict[DecodeKey, tuple[Generation, ...]] = {}
        self._scores: dict[_ScoreKey, float] = {}

    @property
    def answers_held(self) -> int:
        """How many answers are remembered until ``forget``."""
        of_others = sum(other.answers_held for other in self.others.values())
        return len(self._generations) + len(self._scores) + of_others

    def forget(self, keep: Container[Ids] = ()) -> None:
        """Forget every answer, and every prompt but for these frozen prefixes."""
        self._generations.clear()
        self._scores.clear()
        self.prefixes.clear(keep)
        for other in self.others.values():
            other.forget()

    def answer(self, requests: list[Request]) -> list[Answer]:
        """Answer requests, in order; those of one kind and adapter are computed together."""
        answers: dict[int, Answer] = {}
        groups: dict[tuple[str | None, type, str | None], list[int]] = {}
        for position, request in enumerate(requests):
            key = (request.model, type(request), request.adapter)
            groups.setdefault(key, []).append(position)
        for (model, kind, adapter), positions in groups.items():
            members: list[Any] = [requests[position] for position in positions]
            found: Sequence[Answer]
            if model is not None:
                own = [replace(member, model=None) for member in members]
                found = self.others[model].answer(own)
            elif kind is DecodeRequest:
                found = self._decode(adapter, members)
            else:
                found = self._score(adapter, members)
            answers.update(zip(positions, found, strict=True))
        return [answers[position] for position in range(len(requests))]

    def session(self) -> EngineSession:
        """Answers requests that come one after the other; see ``flow.request.EngineSession``."""
        own = ModelSession(self)
        if not self.others:
            return own
        return SeveralSessions(own, {name: e.session() for name, e in self.others.items()})

    def _encode(self, prompt: Prompt, completion: int) -> Encoded:
        encoded = self.tokens.encode(prompt, completion)
        if encoded.frozen_length and not self.prefixes.paths.frozen_prefixes:
            raise UsageError(
                "a prompt has a frozen prefix, and this model cannot read one text in part by the"
                " base model and in part by an adapter. Take another model, other adapter.targets,"
                f" or a Template without frozen_prefix. The prompt begins: {encoded.text[:100]!r}"
            )
        return encoded

    def tokenize(self, request: DecodeRequest) -> tuple[Encoded, DecodeKey]:
        """A request's prompt, and what its outputs are remembered by."""
        prompt = self._encode(request.prompt, request.max_new_tokens)
        version = self.adapters.version(request.adapter)
        grammar = self.tokens.grammar(request.constraint, request.prompt)
        return prompt, DecodeKey(request.adapter, version, _tokenized(request, prompt, grammar))

    def remember(self, key: DecodeKey, generations: tuple[Generation, ...]) -> None:
        """Keep the outputs of a request; the first one answers who wants no other, too."""
        self._generations[key] = generations
        self._generations.setdefault(key.first, generations[:1])

    def remembered(self, key: DecodeKey) -> tuple[Generation, ...] | None:
        """The outputs of a request that was answered before."""
        return self._generations.get(key)

    def decoded(self, prompt: Encoded, key: DecodeKey) -> Decoded:
        """The answer to a request whose outputs are remembered."""
        generations = self._generations[key]
        return Decoded(prompt.text, len(prompt.ids), prompt.dropped, generations, key.version)

    def refuse_or_tokenize(self, request: DecodeRequest) -> Refusal | tuple[Encoded, DecodeKey]:
        """``tokenize``, or why a request that may be refused has to be."""
        try:
            return self.tokenize(request)
        except UsageError as error:
            if not request.refusable:
                raise
            return Refusal(str(error))

    def _decode(self, adapter: str | None, requests: list[DecodeRequest]) -> list[Answer]:
        found = [self.refuse_or_tokenize(request) for request in requests]
        keys = [each[1] for each in found if not isinstance(each, Refusal)]
        # The first output of an exploring request answers one that does not explore.
        covered = {key.first for key in keys if key != key.first}
        missing = [
            key
            for key in dict.fromkeys(keys)
            if key not in self._generations and key not in covered
        ]
        outputs = self.decoder.decode(adapter, [key.request for key in missing])
        for key, generations in zip(missing, outputs, strict=True):
            self.remember(key, generations)
        return [each if isinstance(each, Refusal) else self.decoded(*each) for each in found]

    def _score(self, adapter: str | None, requests: list[ScoreRequest]) -> list[Scored]:
        version = self.adapters.version(adapter)
        prompts: list[list[Encoded]] = []
        keys: list[list[list[_ScoreKey]]] = []
        # What is to be scored, and whether its prompt's keys and values are kept.
        missing: dict[_ScoreKey, bool] = {}
        for request in requests:
            prompts.append([])
            keys.append([])
            for prompt, texts in request.items:
                completions = self.tokens.completions(texts, prompt, rivals=request.rivals)
                encoded = self._encode(prompt, max(len(tokens) for tokens in completions))
                prompts[-1].append(encoded)
                keys[-1].append(
                    [
                        _ScoreKey(
                            adapter,
                            version,
                            Completion(encoded.ids, encoded.frozen_length, tokens),
                        )
                        for tokens in completions
                    ]
                )
                # Of the many prompts of a ranking, those that end here are not continued.
                keep = len(request.items) == 1 or any(len(tokens) > 1 for tokens in completions)
                for key in keys[-1][-1]:
                    if not key.completion.tokens:
                        # A node may have written nothing: that is certain, whatever comes before.
                        self._scores[key] = 0.0
                    if key not in self._scores:
                        missing.setdefault(key, keep)
        for keep in (True, False):
            chosen = [key for key, kept in missing.items() if kept is keep]
            if chosen:
                wanted = [key.completion for key in chosen]
                values = score(self.prefixes, adapter, wanted, keep=keep)
                self._scores.update(zip(chosen, values, strict=True))
        return [
            Scored(
                prompts=tuple(prompt.text for prompt in encoded_prompts),
                prompt_tokens=sum(len(prompt.ids) for prompt in encoded_prompts),
                dropped_tokens=sum(prompt.dropped for prompt in encoded_prompts),
                likelihoods=tuple(
                    tuple(Likelihood(self._scores[key], len(key.completion.tokens)) for key in item)
                    for item in request_keys
                ),
                adapter_version=version,
                head={} if adapter is None else self.adapters.head(request.head or adapter),
            )
            for request, encoded_prompts, request_keys in zip(requests, prompts, keys, strict=True)
        ]


def _tokenized(
    request: DecodeRequest, prompt: Encoded, grammar: Grammar | None
) -> TokenizedRequest:
    explores = request.decoding.outputs > 1
    return TokenizedRequest(
        prompt.ids,
        request.max_new_tokens,
        request.stop,
        request.decoding if explores else request.decoding.first,
        request.seed if request.decoding.draws else (),
        prompt.frozen_length,
        request.logprobs,
        request.prompt.tools,
        grammar,
    )


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end an output: the tokenizer's, and those of the generation config."""
    ends = {tokenizer.eos_token_id}
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if isinstance(configured, int):
        ends.add(configured)
    elif configured:
        ends.update(configured)
    ends.discard(None)
    return frozenset(ends)
