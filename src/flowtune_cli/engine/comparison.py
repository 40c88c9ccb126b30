"""Compares a way to run a model with the model's own plain forward: see ``proof``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean, median, median_low
from typing import cast

import torch

from ..flow.request import Decoding
from ..models.determinism import ADVICE, is_refused
from ..models.out_of_memory import is_out_of_memory
from ..models.tokens import Tokens
from .baseline import BROKEN, NODE, Baseline, distance
from .decoding import Decoder
from .likelihoods import likelihoods
from .limits import Limits
from .paths import Paths
from .plain import token_logprobs
from .prefix_cache import PrefixCache
from .proof_cases import NEW_TOKENS, Text, completions, weights
from .rows import TokenizedRequest
from .scoring import score

NOISE = 3.0
"""How many times the plain path's own noise a way may differ by."""


class _Differs(Exception):
    """What a way computes is not what the model's own forward does."""


class Comparison:
    """Compares ways to run a model with what its own forward computes.

    Args:
        own: the model, and what its own forward computes.
        short: what does not depend on depth and dtype was compared before.
    """

    def __init__(self, own: Baseline, *, short: bool = False) -> None:
        self.own = own
        self.exact = own.exact
        self.short = short
        # Some tokens differ by far where rounding sends them to other experts, so most decide. That
        # all do where nothing is rounded was compared before.
        self.most_decide = short and own.routed

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
            self.own.adapters.activate(None)
        return None

    def _prefixes(self, paths: Paths) -> PrefixCache:
        return PrefixCache(self.own.adapters, Limits(), paths)

    def play(self, paths: Paths) -> None:
        """Decode and score, with the adapter and without."""
        prefixes = self._prefixes(paths)
        for adapter in (NODE, None) if self.exact else (NODE,):
            self._score(prefixes, adapter, self.own.texts)
            self._decode(prefixes, adapter, self.own.texts)

    def play_frozen(self, paths: Paths) -> None:
        """Decode and score after what the base model alone reads."""
        prefixes = self._prefixes(paths)
        self._score(prefixes, NODE, self.own.frozen)
        if self.short:
            return
        self._decode(prefixes, NODE, self.own.frozen)
        for text in self.own.frozen:
            # The adapter has to leave what the base model reads, and that alone.
            ids, count = [text.ids], len(text.ids) - 1
            with torch.no_grad():
                base, mixed = (
                    token_logprobs(self.own.adapters, adapter, ids, hidden, count)
                    for adapter, hidden in ((None, 0), (NODE, text.frozen_length))
                )
            read = slice(0, text.frozen_length)
            self._compare(
                "a frozen prefix", float(mixed[:, read].sum()), float(base[:, read].sum()), count
            )

    def _score(self, prefixes: PrefixCache, adapter: str | None, texts: Sequence[Text]) -> None:
        chosen = completions(texts)
        own = [value for text in texts for value in self.own.values(adapter, text)]
        for keep in (True,) if self.short else (False, True):
            got = score(prefixes, adapter, chosen, keep=keep)
            for completion, value, wanted in zip(chosen, got, own, strict=True):
                self._compare("a score", value, wanted, len(completion.tokens))

    def _decode(self, prefixes: PrefixCache, adapter: str | None, texts: Sequence[Text]) -> None:
        decoding = Decoding(groups=2, diversity_penalty=1.0, samples=1)
        chosen = completions(texts)
        if not self.exact:
            # One prompt, and another that continues it.
            chosen = chosen[:2]
        requests = [
            TokenizedRequest(c.prompt, NEW_TOKENS, (), decoding, (number,), c.frozen_length)
            for number, c in enumerate(chosen)
        ]
        decoder = Decoder(prefixes, cast(Tokens, _NoTexts()), frozenset())
        for request, outputs in zip(requests, decoder.decode(adapter, requests), strict=True):
            rows = [(*request.prompt, *output.tokens) for output in outputs]
            hidden = 0 if adapter is None else request.frozen_length
            steps = self.own.steps(adapter, rows, hidden)
            for output, (value, _) in zip(outputs, steps, strict=True):
                self._compare("decoding", output.logprob, value, NEW_TOKENS)
            value, most = steps[0]
            self._compare("greedy decoding", value, most, NEW_TOKENS)

    def learn(self, paths: Paths) -> None:
        """Take gradients."""
        frozen = paths.frozen_prefixes
        texts = [group for case in self.own.cases for group in (case.texts, case.frozen)]
        if not frozen:
            texts = [case.texts for case in self.own.cases]
        elif self.short and not self.most_decide:
            texts = [[text for group in texts for text in group]]
        self._learn(paths, texts, recompute=False)

    def learn_recomputing(self, paths: Paths) -> None:
        """Take gradients with layers that compute twice."""
        self._learn(paths, [case.texts for case in self.own.cases], recompute=True)

    def _learn(self, paths: Paths, texts: Sequence[Sequence[Text]], *, recompute: bool) -> None:
        """Take the gradient of each of several groups of texts."""
        prefixes = self._prefixes(paths)
        graph = 0.0 if recompute else float("inf")
        off = []
        for group in filter(None, texts):
            own = self.own.gradient(group)
            chosen = completions(group)
            compute = partial(likelihoods, prefixes, NODE, chosen, max_graph_tokens=graph)
            _, got = self.own.gradient_of(compute, weights(chosen))
            off.append(distance(got, own))
        # Structure was proved in float32: here, rounding adds up over all layers.
        least = max(2e-3, 16 * torch.finfo(self.own.model.dtype).eps)
        allowed = 2e-3 if self.exact else max(NOISE * self.own.gradient_noise, least)
        found = median_low(off) if self.most_decide else max(off)
        if not found <= allowed:
            raise _Differs(f"the gradient is off by {found:.1%}")

    def _compare(self, what: str, got: float, own: float, tokens: int) -> None:
        """Compare two sums of log-probabilities of as many tokens."""
        difference = abs(got - own)
        allowed = 1e-3 + 2e-4 * abs(own)
        if not self.exact:
            self._squares.append(difference**2 / tokens)
            allowed = max(allowed, 10 * self.own.noise * math.sqrt(tokens))
        if self.most_decide:
            allowed = sys.float_info.max
        if not difference <= allowed:
            raise _Differs(f"{what} is off by {difference:.3g} nats")

    def _compare_noise(self) -> None:
        """Compare all that differed with what differs by the model's own forward."""
        if self._squares:
            off = math.sqrt((median if self.most_decide else fmean)(self._squares))
            if not off <= max(NOISE * self.own.noise, 1e-4):
                raise _Differs(
                    f"a token is off by {off:.3g} nats, by the model's own forward between shapes"
                    f" of a batch by {self.own.noise:.3g}"
                )


class _NoTexts:
    """In the place of a tokenizer, where no text is wanted."""

    def decode(self, ids: Sequence[int]) -> str:
        return ""


def one_line(error: Exception) -> str:
    """An error on one line."""
    text = " ".join(str(error).split()) or "no message"
    advice = f". {ADVICE}" if is_refused(error) else ""
    return f"{type(error).__name__}: {text[:160]}{advice}"
