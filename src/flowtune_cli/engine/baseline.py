"""What a model's own forward computes, and how far it depends on the shape of a batch: ``proof``
holds the ways to run a model against this."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..config.settings import AdapterSettings
from ..flow.errors import FlowtuneError
from ..models.out_of_memory import is_out_of_memory
from ..models.targets import fused_experts
from .adapters import Adapters
from .forward import cache_argument
from .likelihoods import Completion
from .packing import Ids
from .plain import last_logits, token_logprobs
from .proof_cases import NEW_TOKENS, Text, completions, short_cases, thorough_case, weights
from .windows import rope_switch

NODE = "proof"
"""The node whose adapter is compared beside the base model."""

BROKEN = (
    FlowtuneError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    KeyError,
    AssertionError,
)
"""What a model raises that is run in a way it was not written for."""


class Baseline:
    """A model with a random adapter, the texts to compare, and what its own forward makes of them.

    Whatever is compared with it, each text is read once.

    Args:
        context: the longest text that the model will read, in tokens.
        real: token ids of real texts.
        last_place: what the last place of a logit is worth, in nats. None if nothing but rounding
            may differ, as in float32: then there are many texts, and no noise.

    Attributes:
        noise: by how many nats a token differs between shapes of a batch (root mean square).
        gradient_noise: how far a gradient does, as a share of its length.
        routed: whether rounding can send a token to other experts, so that some differ far more.
    """

    def __init__(
        self,
        model: Any,
        settings: AdapterSettings,
        context: int,
        real: Sequence[Ids],
        *,
        last_place: float | None,
    ) -> None:
        self.exact = last_place is None
        self.model = model
        self.longest = rope_switch(model.config, context)
        self.adapters = Adapters(model, {NODE: {}}, settings, 0)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.adapters.parameters(NODE):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.05 * noise.to(parameter.device, parameter.dtype))
        self.routed = not self.exact and bool(fused_experts(model))
        if self.exact:
            self.cases = [thorough_case(model, context, real)]
        else:
            self.cases = short_cases(model, context, real)[: 2 if self.routed else 1]
        self.noise, self.gradient_noise = last_place or 0.0, 0.0
        self._values: dict[tuple[str | None, Completion], float] = {}
        self._steps: dict[tuple[str | None, tuple[Ids, ...], int], list[tuple[float, float]]] = {}
        self._gradients: dict[tuple[Text, tuple[float, ...]], Tensor] = {}
        if not self.exact:
            self._measure()

    @property
    def texts(self) -> list[Text]:
        """Those of which the adapter reads all."""
        return [text for case in self.cases for text in case.texts]

    @property
    def frozen(self) -> list[Text]:
        """Those after a frozen prefix."""
        return [text for case in self.cases for text in case.frozen]

    def values(self, adapter: str | None, text: Text) -> list[float]:
        """The log-likelihoods of a text's completions, by reading it alone."""
        keys = [(adapter, completion) for completion in text.completions]
        if any(key not in self._values for key in keys):
            with torch.no_grad():
                values = self._read(adapter, [text])
            self._values.update(zip(keys, values.tolist(), strict=True))
        return [self._values[key] for key in keys]

    def _read(self, adapter: str | None, texts: Sequence[Text]) -> Tensor:
        """The log-likelihoods of the completions of texts that are alike, by one pass."""
        first = texts[0]
        frozen_length = 0 if adapter is None else first.frozen_length
        ids, count = [text.ids for text in texts], len(first.ids) - first.begins[0]
        return _sums(token_logprobs(self.adapters, adapter, ids, frozen_length, count), first)

    @torch.no_grad()
    def steps(
        self, adapter: str | None, rows: Sequence[Ids], frozen_length: int
    ) -> list[tuple[float, float]]:
        """For texts of one length: the log-likelihood of the tokens that were decoded, and that of
        the likeliest at each place."""
        key = adapter, tuple(rows), frozen_length
        if key not in self._steps:
            ids = torch.tensor(rows, device=self.model.device)
            length = ids.shape[1]
            ends = [length - 1]
            if self.longest is not None and length > self.longest:
                # What is read before a token is read in another way once the text is long.
                ends = list(range(length - NEW_TOKENS, length))
            kept = NEW_TOKENS - len(ends) + 1
            with self.adapters.using(adapter, frozen_length) as model:
                parts = [last_logits(model, ids[:, :end], kept) for end in ends]
            logprobs = torch.cat(parts, dim=1).float().log_softmax(-1)
            values = logprobs.gather(2, ids[:, -NEW_TOKENS:, None]).sum(dim=(1, 2))
            most = logprobs.amax(dim=2).sum(dim=1)
            self._steps[key] = list(zip(values.tolist(), most.tolist(), strict=True))
        return self._steps[key]

    def gradient(self, texts: Sequence[Text]) -> Tensor:
        """Of the weighted sum of the log-likelihoods of texts' completions, each text read alone.

        Returns:
            The gradients of all parameters in one row, float32.
        """
        chosen = iter(weights(completions(texts)))
        total = torch.zeros(())
        for text in texts:
            counts = tuple(next(chosen) for _ in text.begins)
            if (text, counts) not in self._gradients:
                values, gradient = self.gradient_of(partial(self._read, NODE, [text]), counts)
                self._gradients[text, counts] = gradient
                for completion, value in zip(text.completions, values.tolist(), strict=True):
                    self._values.setdefault((NODE, completion), value)
            total = total.to(self.model.device) + self._gradients[text, counts]
        return total

    def gradient_of(
        self, compute: Callable[[], Tensor], weights: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """The log-likelihoods that are computed, and the gradient of their weighted sum."""
        parameters = self.adapters.parameters(NODE)
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad():
            values = compute()
            self.adapters.activate(NODE)
            (values * torch.tensor(weights, device=values.device)).sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        return values.detach(), torch.cat(
            [part.flatten().to(values.device, torch.float32) for part in parts]
        )

    def _measure(self) -> None:
        """How far log-likelihoods and gradients by the model's own forward depend on the batch."""
        squares = []
        for case in self.cases:
            read = partial(self._read, NODE, case.texts)
            chosen = completions(case.texts)
            try:
                values, together = self.gradient_of(read, weights(chosen))
                off = distance(together, self.gradient(case.texts))
                self.gradient_noise = max(self.gradient_noise, off)
            except BROKEN as error:
                if is_out_of_memory(error):
                    raise
                # A model without gradients is refused where gradients are compared.
                with torch.no_grad():
                    values = read()
            shapes = [values]
            with suppress(*BROKEN):
                shapes.append(self._by_parts(case.texts))
            alone = [value for text in case.texts for value in self.values(NODE, text)]
            for shape in shapes:
                for completion, value, own in zip(chosen, shape.tolist(), alone, strict=True):
                    squares.append((value - own) ** 2 / len(completion.tokens))
        self.noise = max(self.noise, math.sqrt(fmean(squares)))

    @torch.no_grad()
    def _by_parts(self, texts: Sequence[Text]) -> Tensor:
        """As ``_read``, by parts: half of what is before the completions, what is before the last
        one, then token by token. The model's own cache stands for what was read."""
        first, last = texts[0].begins[0], texts[0].begins[-1]
        ids = torch.tensor([text.ids for text in texts], device=self.model.device)
        length, count = ids.shape[1], ids.shape[1] - first
        ends = [max(first // 2, 1), *range(last, length)]
        name = cache_argument(self.model)
        with self.adapters.using(NODE) as model:
            read = model(input_ids=ids[:, : ends[0]], use_cache=True)
            parts = [read.logits[:, -1:]]
            for begin, end in pairwise(ends):
                parts.append(last_logits(model, ids[:, begin:end], end - begin, {name: read[name]}))
        logprobs = torch.cat(parts, dim=1)[:, -count:].float().log_softmax(-1)
        return _sums(logprobs.gather(2, ids[:, -count:, None])[..., 0], texts[0])


def _sums(logprobs: Tensor, text: Text) -> Tensor:
    """Those of completions, of texts that are cut like ``text``.

    Args:
        logprobs: of the tokens from the first completion on; shape (texts, tokens).

    Returns:
        Completion by completion, text by text.
    """
    sizes = [len(completion.tokens) for completion in text.completions]
    parts = [part.sum(dim=1) for part in logprobs.split(sizes, dim=1)]
    return torch.stack(parts, dim=1).flatten()


def distance(one: Tensor, other: Tensor) -> float:
    """How far two gradients are apart, as a share of the second one's length."""
    length = float(other.norm())
    if not length:
        return 0.0 if not float(one.norm()) else float("inf")
    return float((one - other).norm()) / length
