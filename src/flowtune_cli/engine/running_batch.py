"""A batch that is decoded step by step: requests join it and leave it between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..flow.request import Generation
from .decode_cache import DecodeCache, make_decode_cache
from .forward import compute_logits
from .prefix import Prefix
from .prefix_cache import PrefixCache
from .rows import Output, Rows, TokenizedRequest, make_outputs
from .transfers import to_device


@dataclass(frozen=True)
class Held:
    """What a batch holds the keys and values of: each prompt once, each row's own tokens.

    Args:
        longest: of the prompts, to whose length the others are padded.
        new_tokens: the most that a row will have.
    """

    prompts: int = 0
    longest: int = 0
    rows: int = 0
    new_tokens: int = 0

    def with_request(self, request: TokenizedRequest, rows: int | None = None) -> Held:
        """With a request more.

        Args:
            rows: how many of its outputs are still decoded; all if None.
        """
        return replace(
            self,
            prompts=self.prompts + 1,
            longest=max(self.longest, len(request.prompt)),
            rows=self.rows + (request.decoding.outputs if rows is None else rows),
            new_tokens=max(self.new_tokens, request.max_new_tokens),
        )

    @property
    def tokens(self) -> int:
        """How many tokens' keys and values that are."""
        return self.prompts * self.longest + self.rows * self.new_tokens


class RunningBatch:
    """Requests that are decoded together, with one adapter.

    What joins is read at once and gets its first token in the next step. A row's tokens depend on
    its own request alone, whenever it joined.

    Args:
        prefixes: reads the prompts.
        adapter: the node's; None is the base model.
        maybe_end: gives an output its text if its last token ends it.
    """

    def __init__(
        self, prefixes: PrefixCache, adapter: str | None, maybe_end: Callable[[Output], None]
    ) -> None:
        self.prefixes = prefixes
        self.adapter = adapter
        # Of each request, those that have ended, too.
        self.outputs: dict[int, list[Output]] = {}
        self._rows = Rows(prefixes.adapters.model, maybe_end)
        # The last rows may have no token yet, and those before them no place in the cache.
        self._chosen: Tensor | None = None
        self._cached: list[int | None] = []
        self._cache: DecodeCache | None = None
        self._cache_rows = 0
        self._to_cache: dict[int, Prefix] = {}
        self._to_begin: dict[int, Prefix] = {}

    def __len__(self) -> int:
        """How many requests it has."""
        return len(self.outputs)

    @property
    def held(self) -> Held:
        """What is held for the requests that are left."""
        held = Held()
        for outputs in self.outputs.values():
            going_on = sum(output.text is None for output in outputs)
            held = held.with_request(outputs[0].request, going_on)
        return held

    def join(self, requests: Mapping[int, TokenizedRequest]) -> None:
        """Read the prompts of further requests, which get their first tokens in the next step.

        Args:
            requests: by numbers that no request of the batch has.

        Raises:
            OutOfMemory: nothing has joined then.
        """
        read = self.prefixes.prefill(
            self.adapter,
            [request.prompt for request in requests.values()],
            keep=True,
            frozen_lengths=[request.frozen_length for request in requests.values()],
        )
        self._to_begin.update(zip(requests, read, strict=True))
        for index, request in requests.items():
            self.outputs[index] = make_outputs(index, request)
            self._rows.add(self.outputs[index])

    def leave(self, index: int) -> None:
        """Drop a request."""
        del self.outputs[index]
        self._to_begin.pop(index, None)
        self._to_cache.pop(index, None)
        kept = [row for row, output in enumerate(self._rows.outputs) if output.index != index]
        self._rows.keep(kept)
        chosen = [row for row in kept if row < len(self._cached)]
        if self._chosen is not None:
            self._chosen = self._chosen[to_device(chosen, self._chosen.device, torch.long)]
        self._cached = [self._cached[row] for row in chosen]

    def step(self) -> dict[int, tuple[Generation, ...]]:
        """Give each row its next token, by one forward pass with the adapter, which is active.

        Returns:
            The outputs of the requests that have ended, which leave: the groups first, then the
            samples.
        """
        logits = []
        if self._cached:
            logits.append(self._read())
        if self._to_begin:
            first = (
                self._to_begin[output.index].logits
                for output in self._rows.outputs[len(self._cached) :]
            )
            logits.append(torch.stack([each for each in first if each is not None]))
        rows = len(self._rows.outputs)
        self._chosen, going_on = self._rows.choose(torch.cat(logits) if logits[1:] else logits[0])
        places = [*self._cached, *[None] * (rows - len(self._cached))]
        self._cached = [places[row] for row in going_on]
        self._to_cache, self._to_begin = self._to_begin, {}
        if len(going_on) == rows:
            return {}
        left = {output.index for output in self._rows.outputs}
        ended = [index for index in self.outputs if index not in left]
        return {i: tuple(each.generation for each in self.outputs.pop(i)) for i in ended}

    def _read(self) -> Tensor:
        """Read the tokens that were chosen; returns the logits of what follows."""
        assert self._chosen is not None
        model = self.prefixes.adapters.model
        kept = [row for row in self._cached if row is not None]
        if not kept:
            self._cache = None
        elif self._cache is not None and len(kept) < self._cache_rows:
            self._cache.select_rows(kept)
        new = self._rows.outputs[len(kept) : len(self._cached)]
        if new:
            number = {index: place for place, index in enumerate(self._to_cache)}
            added = make_decode_cache(
                model,
                list(self._to_cache.values()),
                [number[output.index] for output in new],
                [output.request.max_new_tokens for output in new],
            )
            if self._cache is None:
                self._cache = added
            else:
                self._cache.join(added)  # type: ignore[arg-type]  # of the same kind
        self._to_cache = {}
        self._cache_rows = len(self._cached)
        self._cached = list(range(self._cache_rows))
        assert self._cache is not None
        return compute_logits(model, self._cache.forward(self._chosen[:, None])[:, 0])
