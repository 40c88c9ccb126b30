"""Decoding: greedy, diverse groups and samples of many prompts in one batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..flow.request import Decoding, Generation
from ..models.out_of_memory import in_halves
from ..models.tokens import Tokens
from . import plain
from .choosing import Chooser, Row
from .decode_cache import DecodeCache, make_decode_cache
from .forward import check_finite, compute_logits
from .packing import Ids
from .prefix import Prefix
from .prefix_cache import PrefixCache
from .transfers import to_device


@dataclass(frozen=True)
class TokenizedRequest:
    """A ``DecodeRequest`` as the decoder gets it.

    Args:
        prompt: its token ids.
        frozen_length: how many of them the base model reads, from the beginning.
    """

    prompt: Ids
    max_new_tokens: int
    stop: tuple[str, ...]
    decoding: Decoding
    seed: tuple[int | str, ...]
    frozen_length: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the longest output."""
        return len(self.prompt) + self.max_new_tokens


@dataclass
class _Sequence:
    """An output in the making.

    Args:
        index: of its request.
        number: among the request's outputs: the groups come first, then the samples.
        generator: of a sample.
    """

    index: int
    number: int
    request: TokenizedRequest
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str | None = None
    truncated: bool = False

    @property
    def row(self) -> Row:
        """What its next token depends on."""
        return Row(self.index, self.number, self.request.decoding, self.generator)


class Decoder:
    """Decodes batches of requests with one adapter at a time.

    Args:
        prefixes: reads the prompts.
        tokens: turns token ids into text.
        end: the token ids that end an output.
    """

    def __init__(self, prefixes: PrefixCache, tokens: Tokens, end: frozenset[int]) -> None:
        self.prefixes = prefixes
        self.tokens = tokens
        self.end = end

    @torch.inference_mode()
    def decode(
        self, adapter: str | None, requests: Sequence[TokenizedRequest]
    ) -> list[tuple[Generation, ...]]:
        """The outputs of each request, in order: the groups first, then the samples."""
        results: list[tuple[Generation, ...]] = [()] * len(requests)
        shared = {i: r for i, r in enumerate(requests) if self.prefixes.paths.shares(r.length)}
        others = {i: r for i, r in enumerate(requests) if i not in shared}

        def decode_batch(batch: Sequence[int]) -> list[tuple[Generation, ...]]:
            return self._decode_batch(adapter, {i: requests[i] for i in batch}, batch[0] in shared)

        for whole in [*self._batches(shared), *self._equal_batches(others)]:
            what = "writing the outputs of a prompt"
            for batch, outputs in in_halves(decode_batch, whole, what, self.prefixes.free):
                for i, output in zip(batch, outputs, strict=True):
                    results[i] = output
        return results

    def _decode_batch(
        self, adapter: str | None, requests: dict[int, TokenizedRequest], shared: bool
    ) -> list[tuple[Generation, ...]]:
        """Requests by their indices; their outputs depend on these requests alone."""
        sequences = [
            _Sequence(i, number, request, _generator(request, number))
            for i, request in requests.items()
            for number in range(request.decoding.outputs)
        ]
        if shared:
            prompts = self.prefixes.prefill(
                adapter,
                [request.prompt for request in requests.values()],
                keep=True,
                frozen_lengths=[request.frozen_length for request in requests.values()],
            )
            self._run(adapter, dict(zip(requests, prompts, strict=True)), sequences)
        else:
            self._run_plain(adapter, sequences)
        return [tuple(_generation(s) for s in sequences if s.index == i) for i in requests]

    def _equal_batches(self, requests: Mapping[int, TokenizedRequest]) -> list[list[int]]:
        """Requests whose prompts have one length, bounded as ``_batches``."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, request in requests.items():
            groups.setdefault((len(request.prompt), request.frozen_length), []).append(i)
        budget = 4 * self.prefixes.limits.tokens_per_batch
        batches: list[list[int]] = []
        for members in groups.values():
            tokens = math.inf
            for i in members:
                more = requests[i].decoding.outputs * requests[i].length
                if tokens + more > budget:
                    batches.append([])
                    tokens = 0
                batches[-1].append(i)
                tokens += more
        return batches

    def _batches(self, requests: Mapping[int, TokenizedRequest]) -> list[list[int]]:
        """Requests of like lengths, bounded by their keys and values: a prompt's once, each
        sequence's own.

        These are a fraction of what a forward pass over as many tokens holds, so there may be
        four times as many.
        """
        budget = 4 * self.prefixes.limits.tokens_per_batch
        batches: list[list[int]] = []
        longest = new_tokens = sequences = 0
        for i in sorted(requests, key=lambda i: -len(requests[i].prompt)):
            request = requests[i]
            new_tokens = max(new_tokens, request.max_new_tokens)
            sequences += request.decoding.outputs
            if batches and (len(batches[-1]) + 1) * longest + sequences * new_tokens <= budget:
                batches[-1].append(i)
            else:
                batches.append([i])
                longest, new_tokens = len(request.prompt), request.max_new_tokens
                sequences = request.decoding.outputs
        return batches

    def _run(
        self, adapter: str | None, prompts: dict[int, Prefix], sequences: list[_Sequence]
    ) -> None:
        number = {index: place for place, index in enumerate(prompts)}
        max_new_tokens = max(sequence.request.max_new_tokens for sequence in sequences)
        first = {index: prompt.logits for index, prompt in prompts.items()}
        logits = torch.stack([x for s in sequences if (x := first[s.index]) is not None])
        running = _Running(self, sequences, logits.device)
        cache: DecodeCache | None = None
        with self.prefixes.adapters.using(adapter) as model:
            while True:
                chosen, rows = running.choose(logits)
                if not rows:
                    return
                if cache is None:
                    owners = [number[sequence.index] for sequence in running.sequences]
                    cache = make_decode_cache(model, list(prompts.values()), owners, max_new_tokens)
                elif len(rows) < len(logits):
                    cache.select_rows(rows)
                logits = compute_logits(model, cache.forward(chosen[:, None])[:, 0])

    def _run_plain(self, adapter: str | None, sequences: list[_Sequence]) -> None:
        """Decode sequences whose prompts have one length."""
        running = _Running(self, sequences, self.prefixes.adapters.model.device)
        plain.decode(
            self.prefixes.adapters,
            adapter,
            [sequence.request.prompt for sequence in sequences],
            0 if adapter is None else sequences[0].request.frozen_length,
            max(sequence.request.max_new_tokens for sequence in sequences),
            running.choose,
            cache=all(self.prefixes.paths.caches(s.request.length) for s in sequences),
        )

    def maybe_end(self, sequence: _Sequence) -> None:
        """Give a sequence its text if its last token ends it."""
        if sequence.tokens[-1] in self.end:
            sequence.text = self.tokens.decode(sequence.tokens[:-1])
            return
        if sequence.request.stop:
            sequence.text = self.tokens.before_stop(sequence.tokens, sequence.request.stop)
            if sequence.text is not None:
                return
        if len(sequence.tokens) >= sequence.request.max_new_tokens:
            sequence.text = self.tokens.decode(sequence.tokens)
            sequence.truncated = True


class _Running:
    """The sequences that have not ended yet, a row each."""

    def __init__(self, decoder: Decoder, sequences: list[_Sequence], device: Any) -> None:
        self.decoder = decoder
        self.device = device
        self._keep(sequences)

    def _keep(self, sequences: list[_Sequence]) -> None:
        self.sequences = sequences
        self._choose = Chooser([sequence.row for sequence in sequences], self.device)

    def choose(self, logits: Tensor) -> tuple[Tensor, list[int]]:
        """Append each sequence's next token; those that end get their text.

        The device is waited for once, for all tokens and their log-probabilities.

        Args:
            logits: shape (sequences, vocabulary).

        Returns:
            The tokens of the sequences that go on, and which of these they were.
        """
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = self._choose(logprobs)
        found = logprobs.gather(1, chosen[:, None])[:, 0]
        # Token ids are whole numbers, which are exact in float64.
        tokens, values = torch.stack([chosen.double(), found.double()]).tolist()
        check_finite(self.decoder.prefixes.adapters.model, values)
        for sequence, token, value in zip(self.sequences, tokens, values, strict=True):
            sequence.tokens.append(int(token))
            sequence.logprob += value
            self.decoder.maybe_end(sequence)
        rows = [i for i, sequence in enumerate(self.sequences) if sequence.text is None]
        if len(rows) < len(self.sequences):
            self._keep([self.sequences[i] for i in rows])
            chosen = chosen[to_device(rows, self.device, torch.long)]
        return chosen, rows


def _generator(request: TokenizedRequest, number: int) -> torch.Generator | None:
    """A sample's own randomness: from the request's seed and the output's number alone."""
    if number < request.decoding.groups:
        return None
    digest = hashlib.sha256(repr((*request.seed, number)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _generation(sequence: _Sequence) -> Generation:
    assert sequence.text is not None
    return Generation(sequence.text, tuple(sequence.tokens), sequence.logprob, sequence.truncated)
