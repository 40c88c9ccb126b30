"""Which layers of a model are on which device, where it is split over several.

Whole layers of the decoder go to the devices in their order, so that the fullest device holds as
little as possible. What comes before them is on the first device, what comes after them on the
last; an output layer that is tied to the embeddings is where these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..flow.errors import UsageError
from .memory import model_bytes

DeviceMap = dict[str, str]
"""As transformers and accelerate take it: a device for each module, by its full name."""


def device_map(model: Any, devices: Sequence[torch.device]) -> DeviceMap:
    """Where each part of a model goes.

    Args:
        model: it may be on the meta device.
        devices: two at least, in the order in which a text goes through them.

    Raises:
        UsageError: its layers are not found, or are fewer than the devices.
    """
    name, layers = _layers(model)
    if len(layers) < len(devices):
        raise UsageError(
            f"model.devices is {len(devices)}, and this model has {len(layers)} layers: set"
            f" model.devices to {len(layers)} or less"
        )
    before, after = _around(model, name)
    tied = [part for part in after if _shares(model, part, before)]
    before, after = [*before, *tied], [part for part in after if part not in tied]
    sizes = [model_bytes(layer) for layer in layers]
    sizes[0] += _bytes(model, before)
    sizes[-1] += _bytes(model, after)
    counts = balanced(sizes, len(devices))
    owners = [device for device, count in zip(devices, counts, strict=True) for _ in range(count)]
    return {
        **dict.fromkeys(before, str(devices[0])),
        **{f"{name}.{number}": str(device) for number, device in enumerate(owners)},
        **dict.fromkeys(after, str(devices[-1])),
    }


def bytes_by_device(model: Any, where: Mapping[str, str]) -> dict[str, int]:
    """The bytes that a model's weights take on each device of a device map."""
    parts: dict[str, list[str]] = {}
    for name, device in where.items():
        parts.setdefault(device, []).append(name)
    return {device: _bytes(model, names) for device, names in parts.items()}


def balanced(sizes: Sequence[int], parts: int) -> list[int]:
    """Cut a row of sizes into parts so that the largest sum is as small as it can be.

    Returns:
        How many sizes each part has, one at least.
    """
    most = len(sizes) - parts
    # best[end]: the largest sum of the first parts, which hold the sizes before ``end``.
    best = {0: 0}
    begins: list[dict[int, int]] = []
    for part in range(1, parts + 1):
        found: dict[int, tuple[int, int]] = {}
        for end in range(part, part + most + 1):
            found[end] = min(
                (max(best[begin], sum(sizes[begin:end])), begin) for begin in best if begin < end
            )
        best = {end: largest for end, (largest, _) in found.items()}
        begins.append({end: begin for end, (_, begin) in found.items()})
    counts: list[int] = []
    end = len(sizes)
    for of_part in reversed(begins):
        counts.append(end - of_part[end])
        end = of_part[end]
    return counts[::-1]


def split_devices(model: Any) -> list[torch.device]:
    """The devices of a model that was split, in order; empty if it is on one."""
    where = getattr(model, "hf_device_map", None) or {}
    found = list(dict.fromkeys(torch.device(device) for device in where.values()))
    return found if len(found) > 1 else []


def layer_devices(model: Any) -> list[torch.device] | None:
    """The device of each layer of a model that was split; None if it is on one."""
    if not split_devices(model):
        return None
    return [next(layer.parameters()).device for layer in _layers(model)[1]]


def _layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The list of a decoder's layers, with its full name."""
    decoder = model.get_decoder()
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [
        module
        for module in decoder.children()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(found) != 1:
        raise UsageError(
            "model.devices is more than 1, and this model cannot be split: it has no single row of"
            " layers. Set model.devices = 1."
        )
    return next(name for name, module in model.named_modules() if module is found[0]), found[0]


def _around(model: Any, layers: str) -> tuple[list[str], list[str]]:
    """The names of the modules before a list of layers, and of those after it."""
    before: list[str] = []
    after: list[str] = []
    owner, prefix = model, ""
    for step in layers.split("."):
        own = [*owner._parameters, *owner._buffers]
        if own:
            raise UsageError(
                "model.devices is more than 1, and this model cannot be split: it has weights"
                f" outside its layers ({prefix}{own[0]}). Set model.devices = 1."
            )
        names = list(owner._modules)
        before += [prefix + name for name in names[: names.index(step)]]
        after = [prefix + name for name in names[names.index(step) + 1 :]] + after
        owner, prefix = owner._modules[step], f"{prefix}{step}."
    # Rotary embeddings, which all layers get, have no weights; they are computed before the layers.
    light = [name for name in after if not any(True for _ in _module(model, name).parameters())]
    return [*before, *light], [name for name in after if name not in light]


def _shares(model: Any, name: str, others: Sequence[str]) -> bool:
    """Whether a module has a weight that is another's, too."""
    theirs = {id(p) for other in others for p in _module(model, other).parameters()}
    if any(id(parameter) in theirs for parameter in _module(model, name).parameters()):
        return True
    # On the meta device they are not tied yet in all versions.
    tied = getattr(model.config.get_text_config(decoder=True), "tie_word_embeddings", False)
    return bool(tied) and _module(model, name) is model.get_output_embeddings()


def _bytes(model: Any, names: Sequence[str]) -> int:
    """What modules take together; a weight that several have counts once."""
    return model_bytes(nn.ModuleList(_module(model, name) for name in names))


def _module(model: Any, name: str) -> nn.Module:
    found: nn.Module = model.get_submodule(name)
    return found
