"""Compares a way to run a model with the model's own plain forward: see ``proof``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor

from ..config.settings import AdapterSettings
from ..flow.errors import FlowtuneError
from ..flow.request import Decoding
from ..models.determinism import ADVICE, is_refused
from ..models.out_of_memory import is_out_of_memory
from ..models.tokens import Tokens
from .adapters import Adapters
from .decoding import Decoder
from .forward import cache_argument
from .likelihoods import Completion, likelihoods
from .limits import Limits
from .packing import Ids
from .paths import Paths
from .plain import last_logits, sequence_logprobs
from .prefix_cache import PrefixCache
from .proof_cases import NEW_TOKENS, completions_to_compare
from .rows import TokenizedRequest
from .scoring import score
from .windows import rope_switch

NODE = "proof"
"""The node whose adapter is compared beside the base model."""

NOISE = 3.0
"""How many times the plain path's own noise a way may differ by."""

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


class _Differs(Exception):
    """What a way computes is not what the model's own forward does."""


class Comparison:
    """A model with a random adapter, what its own forward computes, and how near is near enough.

    Args:
        exact: nothing but rounding may differ, as in float32.
    """

    def __init__(
        self,
        model: Any,
        settings: AdapterSettings,
        context: int,
        texts: Sequence[Ids],
        *,
        exact: bool,
    ) -> None:
        self.exact = exact
        self.model = model
        self.longest = rope_switch(model.config, context)
        self.adapters = Adapters(model, {NODE: {}}, settings, 0)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.adapters.parameters(NODE):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.05 * noise.to(parameter.device, parameter.dtype))
        self.completions, self.frozen = completions_to_compare(model, context, texts, few=not exact)
        if self.longest is not None:
            # Such prompts are refused: what was read before would have been read in another way.
            self.frozen = [
                case for case in self.frozen if len(case.prompt) + NEW_TOKENS <= self.longest
            ]
        self.noise = self.gradient_noise = 0.0
        self._own: dict[tuple[str | None, Completion], float] = {}
        self._own_gradients: dict[tuple[Completion, ...], Tensor] = {}
        self._measure()

    # What the model's own forward computes

    @torch.no_grad()
    def _measure(self) -> None:
        """How far the log-likelihoods by the model's own forward depend on the batch."""
        if self.exact:
            return
        # The last place of a logit is lost in any case.
        ids = torch.tensor([self.completions[0].prompt], device=self.model.device)
        largest = float(last_logits(self.model, ids, 1).abs().max())
        least = torch.finfo(self.model.dtype).eps * largest / 4
        squares = []
        for completion in self.completions:
            row, _ = completion.row(NODE)
            count = len(completion.tokens)
            own = self._alone(NODE, completion)
            values = [self._one_by_one(row, count)]
            counts = [count] * 3
            values += sequence_logprobs(self.adapters, NODE, [row] * 3, 0, counts).tolist()
            with suppress(*BROKEN):
                values += self._with_own_cache(row, count)
            squares += [(value - own) ** 2 / count for value in values]
        self.noise = max(least, math.sqrt(fmean(squares)))

    def _one_by_one(self, row: Ids, count: int) -> float:
        """The log-likelihood of a row's last tokens, each by reading what is before it."""
        ends = range(len(row) - count + 1, len(row) + 1)
        return sum(
            float(sequence_logprobs(self.adapters, NODE, [row[:end]], 0, [1])[0]) for end in ends
        )

    def _with_own_cache(self, row: Ids, count: int) -> list[float]:
        """The same after a part of the row, which the model's own cache stands for."""
        name = cache_argument(self.model)
        values = []
        for split in {len(row) // 2, len(row) - count}:
            ids = torch.tensor([row], device=self.model.device)
            with self.adapters.using(NODE) as model:
                read = model(input_ids=ids[:, :split], use_cache=True)
                rest = last_logits(model, ids[:, split:], len(row) - split, {name: read[name]})
            logits = torch.cat([read.logits[:, -1:], rest], dim=1)[0, -count - 1 : -1]
            logprobs = logits.float().log_softmax(-1)
            values.append(float(logprobs.gather(1, ids[0, -count:, None]).sum()))
        return values

    def _alone(self, adapter: str | None, completion: Completion) -> float:
        if (adapter, completion) not in self._own:
            row, frozen_length = completion.row(adapter)
            count = [len(completion.tokens)]
            with torch.no_grad():
                own = sequence_logprobs(self.adapters, adapter, [row], frozen_length, count)
            self._own[adapter, completion] = float(own[0])
        return self._own[adapter, completion]

    @torch.no_grad()
    def _own_steps(self, adapter: str | None, ids: Ids, count: int) -> tuple[float, float]:
        """The log-likelihood of a text's last tokens, and that of the likeliest at each place."""
        model = self.model
        ends = [len(ids) - 1]
        if self.longest is not None and len(ids) > self.longest:
            # What is read before a token is read in another way once the text is long.
            ends = list(range(len(ids) - count, len(ids)))
        with self.adapters.using(adapter):
            parts = [
                last_logits(
                    model,
                    torch.tensor([ids[:end]], device=model.device),
                    count - len(ends) + 1,
                )
                for end in ends
            ]
        logprobs = torch.cat(parts, dim=1)[0].float().log_softmax(-1)
        targets = torch.tensor(ids[-count:], device=model.device)
        values = logprobs.gather(1, targets[:, None])
        return float(values.sum()), float(logprobs.amax(dim=1).sum())

    # What is compared

    def difference(self, paths: Paths, check: Callable[[Paths], None]) -> str | None:
        """What differs, or goes wrong, if a model is run by these ways; None if nothing."""
        try:
            self._squares: list[float] = []
            check(paths)
            self._compare_noise()
        except _Differs as error:
            return str(error)
        except BROKEN as error:
            if is_out_of_memory(error):
                raise
            return one_line(error)
        finally:
            self.adapters.activate(None)
        return None

    def play(self, paths: Paths) -> None:
        """Decode and score, with the adapter and without."""
        prefixes = PrefixCache(self.adapters, Limits(), paths)
        for adapter in (NODE, None) if self.exact else (NODE,):
            self._score(prefixes, adapter, self.completions)
            self._decode(prefixes, adapter, self.completions)

    def play_frozen(self, paths: Paths) -> None:
        """Decode and score after what the base model alone reads."""
        for completion in self.frozen:
            # The model's own cache has to stand for what was read before.
            whole = self._alone(None, completion)
            row, _ = completion.row(None)
            split = sequence_logprobs(
                self.adapters, None, [row], completion.frozen_length, [len(completion.tokens)]
            )
            self._compare("the model's own cache", float(split[0]), whole, len(completion.tokens))
        prefixes = PrefixCache(self.adapters, Limits(), paths)
        self._score(prefixes, NODE, self.frozen)
        self._decode(prefixes, NODE, self.frozen)

    def _score(
        self, prefixes: PrefixCache, adapter: str | None, completions: Sequence[Completion]
    ) -> None:
        for keep in (False, True):
            for completion, value in zip(
                completions, score(prefixes, adapter, completions, keep=keep), strict=True
            ):
                own = self._alone(adapter, completion)
                self._compare("a score", value, own, len(completion.tokens))

    def _decode(
        self, prefixes: PrefixCache, adapter: str | None, completions: Sequence[Completion]
    ) -> None:
        decoding = Decoding(groups=2, diversity_penalty=1.0, samples=1)
        requests = [
            TokenizedRequest(c.prompt, NEW_TOKENS, (), decoding, (number,), c.frozen_length)
            for number, c in enumerate(completions)
        ]
        decoder = Decoder(prefixes, cast(Tokens, _NoTexts()), frozenset())
        for request, outputs in zip(requests, decoder.decode(adapter, requests), strict=True):
            for number, output in enumerate(outputs):
                ids = (*request.prompt, *output.tokens)
                frozen = Completion(request.prompt, request.frozen_length, tuple(output.tokens))
                if adapter is not None and request.frozen_length:
                    own = self._alone(adapter, frozen)
                    self._compare("decoding", output.logprob, own, NEW_TOKENS)
                    continue
                value, most = self._own_steps(adapter, ids, len(output.tokens))
                self._compare("decoding", output.logprob, value, NEW_TOKENS)
                if number == 0:
                    self._compare("greedy decoding", value, most, NEW_TOKENS)

    def learn(self, paths: Paths, *, recompute: bool = False) -> None:
        """Take one gradient."""
        prefixes = PrefixCache(self.adapters, Limits(), paths)
        graph = 0.0 if recompute else float("inf")
        cases = [self.completions]
        if paths.frozen_prefixes and not recompute:
            cases.append(self.frozen)
        for completions in cases:
            weights = [1.0 - 0.4 * (number % 4) for number in range(len(completions))]
            own = self._own_gradient(completions, weights)
            compute = partial(likelihoods, prefixes, NODE, completions, max_graph_tokens=graph)
            got = self._gradient(compute, weights)
            # Structure was proved in float32: here, rounding adds up over all layers.
            least = max(2e-3, 16 * torch.finfo(self.model.dtype).eps)
            most = 2e-3 if self.exact else max(NOISE * self.gradient_noise, least)
            distance = _distance(got, own)
            if not distance <= most:
                raise _Differs(f"the gradient is off by {distance:.1%}")

    def _own_gradient(self, completions: Sequence[Completion], weights: Sequence[float]) -> Tensor:
        """By the model's own forward; measures how far it depends on the batch, too."""
        key = tuple(completions)
        if key not in self._own_gradients:
            own = self._gradient(partial(self._plain, completions, 1), weights)
            if not self.exact:
                beside = self._gradient(partial(self._plain, completions, 2), weights)
                self.gradient_noise = max(self.gradient_noise, _distance(beside, own))
            self._own_gradients[key] = own
        return self._own_gradients[key]

    def learn_recomputing(self, paths: Paths) -> None:
        """Take one gradient with layers that compute twice."""
        self.learn(paths, recompute=True)

    def _plain(self, completions: Sequence[Completion], rows: int) -> Tensor:
        """Log-likelihoods by forward passes of equal rows, with gradients."""
        values = []
        for completion in completions:
            row, frozen_length = completion.row(NODE)
            counts = [len(completion.tokens)] * rows
            values.append(
                sequence_logprobs(self.adapters, NODE, [row] * rows, frozen_length, counts).mean()
            )
        return torch.stack(values)

    def _gradient(self, compute: Callable[[], Tensor], weights: Sequence[float]) -> Tensor:
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
        return torch.cat([part.flatten().float() for part in parts])

    def _compare(self, what: str, got: float, own: float, tokens: int) -> None:
        """Compare two sums of log-probabilities of as many tokens."""
        difference = abs(got - own)
        allowed = 1e-3 + 2e-4 * abs(own)
        if not self.exact:
            self._squares.append(difference**2 / tokens)
            allowed = max(allowed, 10 * self.noise * math.sqrt(tokens))
        if not difference <= allowed:
            raise _Differs(f"{what} is off by {difference:.3g} nats")

    def _compare_noise(self) -> None:
        """Compare all that differed with what differs by the model's own forward."""
        if self._squares:
            off = math.sqrt(fmean(self._squares))
            if not off <= max(NOISE * self.noise, 1e-4):
                raise _Differs(
                    f"a token is off by {off:.3g} nats, by the model's own forward between shapes"
                    f" of a batch by {self.noise:.3g}"
                )


class _NoTexts:
    """In the place of a tokenizer, where no text is wanted."""

    def decode(self, ids: Sequence[int]) -> str:
        return ""


def _distance(one: Tensor, other: Tensor) -> float:
    """How far two gradients are apart, as a share of the second one's length."""
    length = float(other.norm())
    if not length:
        return 0.0 if not float(one.norm()) else float("inf")
    return float((one - other).norm()) / length


def one_line(error: Exception) -> str:
    """An error on one line."""
    text = " ".join(str(error).split()) or "no message"
    advice = f". {ADVICE}" if is_refused(error) else ""
    return f"{type(error).__name__}: {text[:160]}{advice}"
