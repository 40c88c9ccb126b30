"""How much memory weights take, and how much a device has: checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn

from ..config.settings import ModelSettings
from ..flow.errors import UsageError
from .devices import dtype_name

NF4_BYTES = 0.516
"""Bytes a weight in NF4 with double quantisation: 4 + 0.127 bits (Dettmers et al. 2023, QLoRA)."""

MOST_IN_FULL = 0.05
"""The largest share of a quantised model's layers that may stay in full precision."""

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


def model_bytes(model: nn.Module) -> int:
    """The bytes that a model's weights take, also if it has none yet, on the meta device.

    Weights that are tied count once.
    """
    four_bits = _four_bit_weights(model)
    total = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    for parameter in model.parameters():
        if id(parameter) in four_bits:
            total += _nf4_bytes(four_bits[id(parameter)])
        else:
            total += parameter.numel() * parameter.element_size()
    return total


def check_quantized(name: str, model: Any) -> None:
    """Refuse a model of which bitsandbytes quantises too little, whether loaded or without weights.

    Raises:
        UsageError: says what stays as it is, and how much that is.
    """
    four_bits = _four_bit_weights(model)
    decoder = model.get_decoder()
    outside = {id(p) for m in _embeddings(model) for p in m.parameters()}
    in_full = {
        name: parameter
        for name, parameter in decoder.named_parameters()
        if id(parameter) not in four_bits and parameter.dim() > 1 and id(parameter) not in outside
    }
    full = sum(p.numel() for p in in_full.values())
    total = full + sum(four_bits[id(p)] for p in decoder.parameters() if id(p) in four_bits)
    if full <= MOST_IN_FULL * total:
        return
    kinds = dict.fromkeys(".".join(n.split(".")[-2:]) for n in in_full)
    size = sum(p.numel() * p.element_size() for p in in_full.values())
    raise UsageError(
        f"model.quantization = 'nf4' would leave {full / max(total, 1):.0%} of the layers of"
        f" '{name}' as they are ({', '.join(kinds)}: {size / 1e9:.1f} GB), as bitsandbytes"
        " quantises linear layers alone, and the matrices of experts are none. Set"
        " model.quantization = 'none', or take a model without experts."
    )


def _four_bit_weights(model: nn.Module) -> dict[int, int]:
    """How many weights each quantised parameter holds, by its id."""
    return {
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if type(module).__name__ == "Linear4bit"
        # Once read, the parameter holds bytes: one that was left as it is does not count.
        and (module.weight.is_meta or module.weight.dtype == torch.uint8)
    }


def _embeddings(model: Any) -> list[nn.Module]:
    modules = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    return [*modules, model.get_output_embeddings()]


def _nf4_bytes(weights: int) -> int:
    """With double quantisation: half a byte each, the scale of each block of 64 in a byte, the
    scales of 256 of these in four, and two tables."""
    blocks = -(-weights // 64)
    return -(-weights // 2) + blocks + 4 * -(-blocks // 256) + 4 + 4 * (16 + 256)


def weight_bytes(weights: Iterable[Weight], dtype: torch.dtype, quantized: bool) -> int:
    """The bytes that weights take once loaded, by their names and shapes alone.

    ``model_bytes`` is exact, where a model can be built. Quantised are the matrices of the layers;
    embeddings, output layer and norms keep ``dtype``.
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


def check_memory(
    settings: ModelSettings, needed: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Refuse a model whose weights alone do not fit.

    Raises:
        UsageError: says how much is needed, how much there is, and what takes less.
    """
    available = available_bytes(device)
    if needed <= available:
        return
    quantized = settings.quantization == "nf4"
    less = ["model.dtype = 'bfloat16'"] * (dtype.itemsize > 2 and not quantized)
    less += ["model.quantization = 'nf4'"] * (not quantized)
    if device.type == "cuda" and torch.cuda.device_count() > settings.devices:
        less.append(f"model.devices = {settings.devices + 1}")
    kind = "NF4" if quantized else dtype_name(dtype)
    raise UsageError(
        f"the weights of '{settings.name}' need {needed / 1e9:.1f} GB in {kind} on"
        f" {device}, where {available / 1e9:.1f} GB are free. Take a smaller model"
        + (f", or set {' or '.join(less)}." if less else ".")
    )
