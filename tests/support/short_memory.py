"""Memory that runs out while the tiny model computes, as a GPU's does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaMLP


@contextmanager
def short_of_memory(times: int, now: Callable[[], bool]) -> Iterator[None]:
    """In this block, the model's layers have no memory the first so many times.

    Args:
        now: whether that begins; asked each time.
    """
    forward = LlamaMLP.forward
    left = times

    def without_memory(self: LlamaMLP, *given: Any, **more: Any) -> Any:
        nonlocal left
        if left and now():
            left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, *given, **more)

    LlamaMLP.forward = without_memory  # type: ignore[method-assign]
    try:
        yield
    finally:
        LlamaMLP.forward = forward  # type: ignore[method-assign]
