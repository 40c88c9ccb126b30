"""Decoding: greedy, diverse groups and samples of many prompts in one batch.

Diverse beam search (Vijayakumar et al. 2016) with one beam a group: at each position group g picks
the token with the highest log-probability less ``penalty`` for each of the groups 0..g-1 of the
same prompt that picked that token at this position. Group 0 pays nothing, so it is greedy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.request import Decoding, Generation
from ..models.out_of_memory import in_halves
from ..models.tokens import Tokens
from . import plain
from .decode_cache import DecodeCache, make_decode_cache
from .forward import check_finite, compute_logits
from .packing import Ids
from .prefix import Prefix
from .prefix_cache import PrefixCache


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
    def group(self) -> int | None:
        """Its group in the diverse search; None for a sample."""
        return self.number if self.number < self.request.decoding.groups else None


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
        running = sequences
        cache: DecodeCache | None = None
        with self.prefixes.adapters.using(adapter) as model:
            while True:
                chosen, rows = self._choose(running, logits)
                if not rows:
                    return
                some_ended = len(rows) < len(running)
                running = [running[i] for i in rows]
                if cache is None:
                    owners = [number[sequence.index] for sequence in running]
                    cache = make_decode_cache(model, list(prompts.values()), owners, max_new_tokens)
                elif some_ended:
                    cache.select_rows(rows)
                logits = compute_logits(model, cache.forward(chosen[rows][:, None])[:, 0])

    def _run_plain(self, adapter: str | None, sequences: list[_Sequence]) -> None:
        """Decode sequences whose prompts have one length."""
        running = sequences

        def choose(logits: Tensor) -> tuple[Tensor, list[int]]:
            nonlocal running
            chosen, rows = self._choose(running, logits)
            running = [running[i] for i in rows]
            return chosen, rows

        plain.decode(
            self.prefixes.adapters,
            adapter,
            [sequence.request.prompt for sequence in sequences],
            0 if adapter is None else sequences[0].request.frozen_length,
            max(sequence.request.max_new_tokens for sequence in sequences),
            choose,
            cache=all(self.prefixes.paths.caches(s.request.length) for s in sequences),
        )

    def _choose(self, sequences: list[_Sequence], logits: Tensor) -> tuple[Tensor, list[int]]:
        """Append each sequence's next token; those that end get their text.

        Returns:
            The tokens, shape (sequences,), and which sequences go on.
        """
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = logprobs.argmax(dim=-1)
        _diversify(sequences, logprobs, chosen)
        for row, sequence in enumerate(sequences):
            if sequence.generator is not None:
                decoding = sequence.request.decoding
                chosen[row] = _sample(logprobs[row], decoding, sequence.generator)
        values = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        check_finite(self.prefixes.adapters.model, values)
        for sequence, token, value in zip(sequences, chosen.tolist(), values, strict=True):
            sequence.tokens.append(token)
            sequence.logprob += value
            self._maybe_end(sequence)
        return chosen, [i for i, sequence in enumerate(sequences) if sequence.text is None]

    def _maybe_end(self, sequence: _Sequence) -> None:
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


def _diversify(sequences: Sequence[_Sequence], logprobs: Tensor, chosen: Tensor) -> None:
    """Let each group choose again, after the groups before it; nothing waits for the device."""
    groups: dict[int, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.group is not None and sequence.request.decoding.groups > 1:
            groups.setdefault(sequence.group, []).append(row)
    if not any(groups):
        return
    number = {index: n for n, index in enumerate(dict.fromkeys(s.index for s in sequences))}
    penalties = logprobs.new_zeros((len(number), logprobs.shape[1]))
    for group, rows in sorted(groups.items()):
        members = [sequences[row] for row in rows]
        at = torch.tensor(rows, device=chosen.device)
        of = torch.tensor([number[member.index] for member in members], device=chosen.device)
        if group:
            chosen[at] = (logprobs[at] - penalties[of]).argmax(dim=-1)
        penalty = [member.request.decoding.diversity_penalty for member in members]
        penalties[of, chosen[at]] += torch.tensor(penalty, device=penalties.device)


def _generator(request: TokenizedRequest, number: int) -> torch.Generator | None:
    """A sample's own randomness: from the request's seed and the output's number alone."""
    if number < request.decoding.groups:
        return None
    digest = hashlib.sha256(repr((*request.seed, number)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _sample(logprobs: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """One token by inverting the cumulative distribution, with temperature and nucleus."""
    if decoding.temperature <= 0:
        return int(logprobs.argmax())
    probabilities = torch.softmax(logprobs / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        inside = (ordered.cumsum(0) - ordered) < decoding.top_p
        inside[0] = True
        # In the order of the vocabulary, which does not depend on the last bit of a probability.
        probabilities = probabilities.index_fill(0, tokens[~inside], 0.0)
    cumulative = probabilities.cumsum(0)
    point = torch.rand((), generator=generator).to(cumulative.device) * cumulative[-1]
    place = int(torch.searchsorted(cumulative, point, right=True))
    return min(place, int(probabilities.nonzero()[-1]))


def _generation(sequence: _Sequence) -> Generation:
    assert sequence.text is not None
    return Generation(sequence.text, tuple(sequence.tokens), sequence.logprob, sequence.truncated)
