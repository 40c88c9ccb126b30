"""Gradient checkpointing: layers compute again in the backward pass, so long rows need less memory.

Between the passes each layer holds its input alone (Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapters import Adapters


@contextmanager
def recomputing(adapters: Adapters) -> Iterator[None]:
    """In this block, let each layer of the decoder hold its input alone.

    Gradients are to be taken with the adapter active that is active here. The cache may not change
    while layers run, as they run twice. Transformers' own gradient checkpointing would leave the
    cache out.
    """
    modules = adapters.model.get_decoder().modules()
    layers: list[Any] = [m for m in modules if isinstance(m, GradientCheckpointingLayer)]
    # What a library put there that wraps what a layer computes.
    wrappers = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=adapters.mask.contexts,
        )
    try:
        yield
    finally:
        for layer, wrapper in zip(layers, wrappers, strict=True):
            if wrapper is None:
                del layer.forward
            else:
                layer.forward = wrapper
