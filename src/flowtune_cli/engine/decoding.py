"""Decoding: greedy, diverse groups and samples of many prompts in one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ..flow.request import Generation
from ..models.out_of_memory import in_halves
from ..models.tokens import Tokens
from . import plain
from .prefix_cache import PrefixCache
from .rows import Output, Rows, TokenizedRequest, make_outputs
from .running_batch import Held, RunningBatch


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
        if not shared:
            return self._decode_plain(adapter, requests)
        batch = self.running_batch(adapter)
        batch.join(requests)
        ended: dict[int, tuple[Generation, ...]] = {}
        with self.prefixes.adapters.using(adapter):
            while batch:
                ended.update(batch.step())
        return [ended[i] for i in requests]

    def running_batch(self, adapter: str | None) -> RunningBatch:
        """A batch that requests may join while it is decoded."""
        return RunningBatch(self.prefixes, adapter, self.maybe_end)

    @property
    def budget(self) -> int:
        """How many tokens' keys and values may be held while decoding.

        These are a fraction of what a forward pass over as many tokens holds, so there may be
        four times as many.
        """
        return 4 * self.prefixes.limits.tokens_per_batch

    def _equal_batches(self, requests: Mapping[int, TokenizedRequest]) -> list[list[int]]:
        """Requests whose prompts have one length, bounded as ``_batches``."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, request in requests.items():
            groups.setdefault((len(request.prompt), request.frozen_length), []).append(i)
        batches: list[list[int]] = []
        for members in groups.values():
            tokens = math.inf
            for i in members:
                more = requests[i].decoding.outputs * requests[i].length
                if tokens + more > self.budget:
                    batches.append([])
                    tokens = 0
                batches[-1].append(i)
                tokens += more
        return batches

    def _batches(self, requests: Mapping[int, TokenizedRequest]) -> list[list[int]]:
        """Requests of like lengths, bounded by what is held for them."""
        batches: list[list[int]] = []
        held = Held()
        for i in sorted(requests, key=lambda i: -len(requests[i].prompt)):
            with_it = held.with_request(requests[i])
            if batches and with_it.tokens <= self.budget:
                batches[-1].append(i)
                held = with_it
            else:
                batches.append([i])
                held = Held().with_request(requests[i])
        return batches

    def _decode_plain(
        self, adapter: str | None, requests: Mapping[int, TokenizedRequest]
    ) -> list[tuple[Generation, ...]]:
        """Decode requests whose prompts have one length."""
        outputs = {i: make_outputs(i, request) for i, request in requests.items()}
        model = self.prefixes.adapters.model
        rows = Rows(model, self.maybe_end)
        rows.add([output for of_request in outputs.values() for output in of_request])
        plain.decode(
            self.prefixes.adapters,
            adapter,
            [output.request.prompt for output in rows.outputs],
            0 if adapter is None else rows.outputs[0].request.frozen_length,
            max(request.max_new_tokens for request in requests.values()),
            rows.choose,
            cache=all(self.prefixes.paths.caches(r.length) for r in requests.values()),
        )
        return [tuple(output.generation for output in outputs[i]) for i in requests]

    def maybe_end(self, output: Output) -> None:
        """Give an output its text if its last token ends it."""
        if output.tokens[-1] in self.end:
            output.text = self.tokens.decode(output.tokens[:-1])
            return
        if output.request.stop:
            output.text = self.tokens.before_stop(output.tokens, output.request.stop)
            if output.text is not None:
                return
        if len(output.tokens) >= output.request.max_new_tokens:
            output.text = self.tokens.decode(output.tokens)
            output.truncated = True
