"""Layers computed again when gradients go through them, so that long texts need less memory.

Between the passes each layer holds what it was given alone (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """In this block, let each layer of the decoder hold its input alone.

    Gradients are to be taken with the adapter active that is active here, and a cache that layers
    look at may not change in them, as they run twice: see ``Before``. The layers' own way, that of
    transformers, would leave the cache out.
    """
    found = model.get_decoder().modules()
    layers: list[Any] = [m for m in found if isinstance(m, GradientCheckpointingLayer)]
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


class Before(DynamicCache):
    """Keys and values that stand before what is read, and stay as they are when layers run.

    Args:
        cache: what holds them.
    """

    def __init__(self, cache: DynamicCache) -> None:
        super().__init__()
        self.layers = cache.layers

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by a layer with the tokens' keys and values; gives all that they look at."""
        before: Any = self.layers[layer]
        return torch.cat([before.keys, keys], dim=-2), torch.cat([before.values, values], dim=-2)
