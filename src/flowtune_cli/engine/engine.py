"""The engine: answers the requests of many episodes at once, and remembers what it answered.

Under greedy decoding an answer is a function of the adapter's version and the prompt, so a request
that comes again is answered from memory. Memory lasts for one mini-batch: ``forget`` empties it,
so that what a mini-batch computes depends on its adapters and examples alone.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from ..config.settings import EngineSettings
from ..flow.prompt import Prompt
from ..flow.request import (
    Answer,
    Decoded,
    DecodeRequest,
    Generation,
    Likelihood,
    Request,
    Scored,
    ScoreRequest,
)
from ..models.tokens import Encoded, Tokens
from .adapters import Adapters
from .decoding import Decoder, Job
from .likelihoods import Pair
from .packing import Ids
from .prefixes import Prefixes
from .scoring import score


@dataclass
class Counts:
    """What the engine did: requests, and how many of them were answered from memory."""

    requests: int = 0
    remembered: int = 0
    generated_tokens: int = 0
    scored_completions: int = 0
    truncated: int = 0
    cut_prompts: int = 0


@dataclass(frozen=True)
class _Wanted:
    """A completion to score; ``keep`` remembers what the model made of its prompt."""

    prompt: Encoded
    completion: tuple[int, ...]
    keep: bool


class ModelEngine:
    """Answers requests with one base model and its adapters.

    Args:
        adapters: the model with its adapters.
        tokenizer: the model's.
        context: longest prompt plus output, in tokens.
        settings: how much is computed at once.
    """

    def __init__(
        self, adapters: Adapters, tokenizer: Any, context: int, settings: EngineSettings
    ) -> None:
        self.adapters = adapters
        self.tokens = Tokens(tokenizer, context)
        self.prefixes = Prefixes(
            adapters, settings.tokens_per_batch, settings.prefix_cache_mb * 2**20
        )
        self.decoder = Decoder(self.prefixes, self.tokens, _end_tokens(adapters.model, tokenizer))
        self.counts = Counts()
        self._generations: dict[tuple[Any, ...], tuple[Generation, ...]] = {}
        self._scores: dict[tuple[Any, ...], float] = {}

    def forget(self, keep: Container[Ids] = ()) -> None:
        """Forget every answer, and every prefix but for these contexts."""
        self._generations.clear()
        self._scores.clear()
        self.prefixes.clear(keep)

    def answer(self, requests: list[Request]) -> list[Answer]:
        """Answer requests, in order; those of one kind and adapter are computed together."""
        self.counts.requests += len(requests)
        answers: dict[int, Answer] = {}
        groups: dict[tuple[type, str | None], list[int]] = {}
        for position, request in enumerate(requests):
            groups.setdefault((type(request), request.adapter), []).append(position)
        for (kind, adapter), positions in groups.items():
            members: list[Any] = [requests[position] for position in positions]
            found: Sequence[Answer]
            if kind is DecodeRequest:
                found = self._decode(adapter, members)
            else:
                found = self._score(adapter, members)
            answers.update(zip(positions, found, strict=True))
        return [answers[position] for position in range(len(requests))]

    def _decode(self, adapter: str | None, requests: list[DecodeRequest]) -> list[Decoded]:
        version = self.adapters.version(adapter)
        prompts = [self._encode(request.prompt, request.max_new_tokens) for request in requests]
        keys: list[tuple[Any, ...]] = [
            (adapter, version, prompt.read, request.max_new_tokens, request.stop)
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        exploring = [request.decoding.outputs > 1 for request in requests]
        for i, request in enumerate(requests):
            if exploring[i]:
                # Nothing but samples depends on the seed.
                seed = request.seed if request.decoding.samples else ()
                keys[i] = (*keys[i], request.decoding, seed)
        jobs: dict[tuple[Any, ...], Job] = {}
        greedy_of = {key[:5] for key, wide in zip(keys, exploring, strict=True) if wide}
        for i, (request, key) in enumerate(zip(requests, keys, strict=True)):
            # The first output of an exploring request answers a greedy one for the same prompt.
            shared = not exploring[i] and key in greedy_of
            if key in self._generations or key in jobs or shared:
                self.counts.remembered += 1
                continue
            jobs[key] = Job(
                prompts[i].ids,
                request.max_new_tokens,
                request.stop,
                request.decoding,
                request.seed,
                prompts[i].context,
            )
        decoded = self.decoder.decode(adapter, list(jobs.values()))
        for key, generations in zip(jobs, decoded, strict=True):
            self._generations[key] = generations
            self._generations.setdefault(key[:5], generations[:1])
            self.counts.generated_tokens += sum(len(g.tokens) for g in generations)
            self.counts.truncated += sum(g.truncated for g in generations)
        return [
            Decoded(prompt.text, len(prompt.ids), prompt.dropped, self._generations[key], version)
            for prompt, key in zip(prompts, keys, strict=True)
        ]

    def _score(self, adapter: str | None, requests: list[ScoreRequest]) -> list[Scored]:
        version = self.adapters.version(adapter)
        wanted: dict[tuple[Any, ...], _Wanted] = {}
        prompts: list[list[Encoded]] = []
        keys: list[list[list[tuple[Any, ...]]]] = []
        for request in requests:
            prompts.append([])
            keys.append([])
            for prompt, completions in request.items:
                texts = [self.tokens.completion(text) for text in completions]
                encoded = self._encode(prompt, max(len(text) for text in texts))
                prompts[-1].append(encoded)
                keys[-1].append([(adapter, version, encoded.read, text) for text in texts])
                # Of the many prompts of a ranking, those that end here are not gone on from.
                keep = len(request.items) == 1 or any(len(text) > 1 for text in texts)
                for key, text in zip(keys[-1][-1], texts, strict=True):
                    if not text:
                        # A node may have written nothing: that is certain, whatever comes before.
                        self._scores[key] = 0.0
                    if key in self._scores or key in wanted:
                        self.counts.remembered += 1
                    else:
                        wanted[key] = _Wanted(encoded, text, keep)
        for keep in (True, False):
            chosen = {key: want for key, want in wanted.items() if want.keep is keep}
            pairs = [Pair(*want.prompt.read, want.completion) for want in chosen.values()]
            if pairs:
                values = score(self.prefixes, adapter, pairs, keep=keep)
                self._scores.update(zip(chosen, values, strict=True))
        self.counts.scored_completions += len(wanted)
        head = self.adapters.head(adapter)
        answers = []
        for encoded_prompts, request_keys in zip(prompts, keys, strict=True):
            answers.append(
                Scored(
                    prompts=tuple(prompt.text for prompt in encoded_prompts),
                    prompt_tokens=sum(len(prompt.ids) for prompt in encoded_prompts),
                    dropped_tokens=sum(prompt.dropped for prompt in encoded_prompts),
                    likelihoods=tuple(
                        tuple(Likelihood(self._scores[key], len(key[3])) for key in item)
                        for item in request_keys
                    ),
                    adapter_version=version,
                    head=head,
                )
            )
        return answers

    def _encode(self, prompt: Prompt, completion: int = 0) -> Encoded:
        encoded = self.tokens.encode(prompt, completion)
        self.counts.cut_prompts += encoded.dropped > 0
        return encoded


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
