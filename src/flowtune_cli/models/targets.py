"""Which layers adapters are put on: found in the model itself, as each architecture has its own.

Only the decoder is looked at: what reads pictures or sounds is never run here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..flow.errors import UsageError, unknown_name

AUTO, ALL_LINEAR = "auto", "all-linear"

_TOKEN_MIXER = re.compile("attention|attn|mha|mixer|deltanet", re.IGNORECASE)
"""How a class is called whose layers pass something from token to token."""

_QUERIES_OR_VALUES = re.compile(r"w?(?=[qkv]*[qv])[qkv]+z?|query|value|receptance", re.IGNORECASE)
"""A word in the name of a layer that computes queries or values, perhaps with other things."""


def resolve_targets(model: Any, targets: str | Sequence[str]) -> list[str]:
    """The names of the layers to adapt, in the model's order.

    Args:
        model: it may be on the meta device.
        targets: names; or "auto", those that compute queries and values, be they one layer or
            several; or "all-linear", all of the decoder but the output layer.

    Raises:
        UsageError: no linear layer goes by one of the names, or none is found; says which there
            are.
    """
    layers = linear_layers(model)
    names = list(dict.fromkeys(_last(name) for name in layers))
    if targets == ALL_LINEAR:
        found = [name for name in names if not _stands_for_experts(model, name)]
    elif targets == AUTO:
        found = _queries_and_values(model, layers)
    else:
        output = _output_name(model)
        known = {*names, _last(output)} - {""}
        for target in targets:
            if target not in known:
                raise unknown_name("layer in adapter.targets:", target, sorted(known))
            if _stands_for_experts(model, target):
                raise UsageError(
                    f"adapter.targets: PEFT takes '{target}' in this model for its experts'"
                    f" matrices, which are no layers ({', '.join(fused_experts(model))}) and are"
                    " not adapted. Take it out."
                )
        found = list(targets)
    if not found:
        raise UsageError(
            f"adapter.targets = {targets!r} finds no layer in this model. Name layers:"
            f" {', '.join(sorted(names)) or 'it has no linear ones, so it cannot be adapted'}"
        )
    return found


def peft_targets(model: Any, names: Sequence[str]) -> list[str] | str:
    """Resolved targets as PEFT takes them: names, or a pattern if names reach past the decoder."""
    prefix = _decoder_name(model)
    outside = [
        name
        for name, module in model.named_modules()
        if _last(name) in names and not f"{name}.".startswith(prefix) and _is_linear(module)
    ]
    if set(outside) <= {_output_name(model)}:
        return list(names)
    parts = "|".join(map(re.escape, names))
    return rf"{re.escape(prefix)}(?:.*\.)?(?:{parts})"


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The linear layers of a model's decoder by their full names, without the output layer."""
    prefix = _decoder_name(model)
    output = model.get_output_embeddings()
    return {
        prefix + name: module
        for name, module in model.get_decoder().named_modules()
        if name and _is_linear(module) and module is not output
    }


def fused_experts(model: Any) -> list[str]:
    """The names of parameters that hold the matrices of several experts, which no layer computes.

    Adapters are put on layers, so they leave these as they are.
    """
    return list(
        dict.fromkeys(
            _last(name)
            for module in model.get_decoder().modules()
            if not isinstance(module, nn.Conv1d)
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.dim() == 3 and min(parameter.shape[1:]) > 1
        )
    )


def _stands_for_experts(model: Any, name: str) -> bool:
    """Whether PEFT takes a layer's name for the experts', as it was before they were fused."""
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:
        return True  # it is one of several that were fused
    return bool(config.target_parameters)


def _queries_and_values(model: Any, layers: dict[str, nn.Module]) -> list[str]:
    """By the module that they are in, which is named for attention or what takes its place."""
    by_owner: dict[str, list[str]] = {}
    classes = {name: type(module).__name__ for name, module in model.named_modules()}
    for full in layers:
        owner = full.rpartition(".")[0]
        if _TOKEN_MIXER.search(classes[owner]):
            siblings = by_owner.setdefault(classes[owner], [])
            if _last(full) not in siblings:
                siblings.append(_last(full))
    found: dict[str, None] = {}
    for siblings in by_owner.values():
        # One that compresses, such as q_a_proj, is followed by one that computes them.
        chosen = [name for name in siblings if _says(name) and "a" not in name.split("_")]
        # Where no name says so, the last layer writes the result, and the others read.
        found |= dict.fromkeys(chosen or siblings[:-1] or siblings)
    return list(found)


def _says(name: str) -> bool:
    return any(_QUERIES_OR_VALUES.fullmatch(word) for word in name.split("_"))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _decoder_name(model: Any) -> str:
    """What the names of the decoder's modules begin with, dot included."""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    return f"{name}." if name else ""


def _output_name(model: Any) -> str:
    output = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is output), "")
