"""Forward passes through the base model's decoder, and the logits of what it computes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import MoeModelOutputWithPast

from ..flow.errors import UsageError
from ..models.devices import dtype_name


def cache_argument(model: Any) -> str:
    """What a model calls its cache: "cache" since transformers 5.24, "past_key_values" before."""
    return _cache_argument(type(model).forward)


@functools.cache
def _cache_argument(forward: Any) -> str:
    return "cache" if "cache" in signature(forward).parameters else "past_key_values"


def with_cache(model: Any, cache: Cache) -> dict[str, Any]:
    """The arguments with which a model uses a cache."""
    return {cache_argument(model): cache, "use_cache": True}


def hidden_states(model: Any, ids: Tensor, *, cache: Cache, **more: Any) -> Tensor:
    """The decoder's last hidden states of tokens after a cache: (rows, columns, hidden size).

    They are on the device of ``ids``, also where the last layers are on another.
    """
    decoder = model.get_decoder()
    states: Tensor = decoder(input_ids=ids, **with_cache(decoder, cache), **more).last_hidden_state
    return states.to(ids.device)


def compute_logits(model: Any, states: Tensor) -> Tensor:
    """Logits of hidden states, shape (..., vocabulary).

    By the model's own forward, with the states in the place of what its body computes: some models
    scale or cap their logits, each by a setting of its own.
    """
    name = model.base_model_prefix
    body = model._modules[name]
    model._modules[name] = _ReadBody(body, states.flatten(0, -2)[None])
    try:
        ids = torch.zeros((1, 1), dtype=torch.long, device=states.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        model._modules[name] = body
    return logits.view(*states.shape[:-1], -1)


class _ReadBody(nn.Module):
    """In the place of a model's body: returns states that were computed before."""

    def __init__(self, body: nn.Module, states: Tensor) -> None:
        super().__init__()
        # Not as a module of this one: it keeps its own hooks and is not called.
        self.__dict__["body"] = body
        self.states = states

    def forward(self, *_: Any, **__: Any) -> _BodyOutput:
        return _BodyOutput(last_hidden_state=self.states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["body"], name)


class _BodyOutput(MoeModelOutputWithPast):
    """What a body returns; all but the hidden states is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def check_finite(model: Any, logprobs: Iterable[float]) -> None:
    """Raise if log-probabilities that a model computed are no numbers, or infinite.

    Raises:
        UsageError: names the dtype in which they are so, and what to do.
    """
    if not all(map(math.isfinite, logprobs)):
        raise UsageError(
            f"the model's logits are not finite in {dtype_name(model.dtype)} on {model.device}: set"
            " model.dtype to 'float32', or to 'bfloat16' if it is 'float16'. In float32 that would"
            " mean damaged weights, of the model or an adapter."
        )


def pad_right(rows: Sequence[Sequence[int]], device: Any) -> Tensor:
    """Token ids as a matrix, shape (rows, longest); zeros where a row has ended."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
