"""How much memory weights take, and how much a device has: checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from ..flow.errors import UsageError
from .devices import dtype_name

NF4_BYTES = 0.516
"""Bytes a weight in NF4 with double quantisation: 4 + 0.127 bits (Dettmers et al. 2023, QLoRA)."""

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container's limit is, in versions 2 and 1."""


class Weight(NamedTuple):
    """A tensor as stored: ``packed`` is its bytes if it holds integers, which stay as they are."""

    name: str
    shape: Sequence[int]
    packed: int = 0


def weight_bytes(weights: Iterable[Weight], dtype: torch.dtype, quantized: bool) -> int:
    """The bytes that weights take once loaded.

    Quantised are the matrices of the layers; embeddings, output layer and norms keep ``dtype``.
    """
    total = 0.0
    for name, shape, packed in weights:
        is_layer = len(shape) == 2 and "embed" not in name and "lm_head" not in name
        size = NF4_BYTES if quantized and is_layer else dtype.itemsize
        total += packed or prod(shape) * size
    return int(total)


def total_bytes(device: torch.device) -> int:
    """All memory of the GPU, or of the machine, as far as its control group may use it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = int(psutil.virtual_memory().total)
    for file in _CGROUP_LIMITS:
        try:
            limit = file.read_text().strip()
        except OSError:
            continue
        # "max" is none.
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def available_bytes(device: torch.device) -> int:
    """The free memory of the machine, or of the GPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(model: str, needed: int, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a model whose weights alone do not fit.

    Raises:
        UsageError: says how much is needed, how much there is, and what takes less.
    """
    available = available_bytes(device)
    if needed > available:
        raise UsageError(
            f"the weights of '{model}' need {needed / 1e9:.1f} GB in {dtype_name(dtype)} on"
            f" {device}, where {available / 1e9:.1f} GB are free. Take a smaller model, or set"
            " model.dtype = 'bfloat16' or model.quantization = 'nf4'."
        )
