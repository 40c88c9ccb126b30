"""Starts a node's adapter from one that was trained elsewhere: LoRA in PEFT's format.

It may have a smaller rank and another scaling than the run's adapters: what is missing of the rank
is zero, and the scaling goes into the weights, so the node answers as with the adapter given.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..flow.errors import UsageError
from .adapters import Adapters, reference_of

_PLAIN: dict[str, Any] = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "trainable_token_indices": None,
    "target_parameters": None,
}
"""What PEFT can do that no adapter here does."""


@torch.no_grad()
def import_adapter(adapters: Adapters, node: str, directory: Path) -> None:
    """Make a node's adapter, and its reference, compute what the one in ``directory`` computes.

    Raises:
        UsageError: it is no LoRA adapter, cannot be read, or does not fit; says what to set.
    """
    where = f"the adapter in {directory}, which node '{node}' starts from,"
    config = _config(directory, where)
    state = _weights(directory, where)
    own = adapters.state(node)
    parts = adapters.config(node)
    rank = int(config["r"])
    if rank > parts.r:
        raise UsageError(f"{where} has rank {rank}: set adapter.rank = {rank}, or more")
    theirs = _scaling(config["lora_alpha"], rank, bool(config.get("use_rslora")))
    ours = _scaling(parts.lora_alpha, parts.r, parts.use_rslora)
    for key in sorted(state.keys() - own.keys()):
        raise UsageError(
            f"{where} adapts a layer that is not adapted here: {key}. If it is for this model, set"
            f" adapter.targets to its target_modules, {json.dumps(config.get('target_modules'))}"
        )
    for key, weights in own.items():
        if key in state:
            _fill(weights, state[key], theirs / ours, key, where)
        elif "lora_B" in key:
            weights.zero_()  # a layer that it does not adapt
    adapters.set_state(node, own)
    if not adapters.is_finite(node):
        raise UsageError(f"{where} holds values that are not numbers")
    adapters.copy(node, reference_of(node))
    for name in (node, reference_of(node)):
        adapters.versions[name] = 0


def _fill(own: Tensor, given: Tensor, scale: float, key: str, where: str) -> None:
    """Put a matrix into a larger one: A has the rank as its rows, B as its columns."""
    is_b = "lora_B" in key
    smaller = given.shape[1 if is_b else 0] <= own.shape[1 if is_b else 0]
    if given.dim() != 2 or given.shape[is_b - 1] != own.shape[is_b - 1] or not smaller:
        raise UsageError(
            f"{where} does not fit this model: {key} has the shape {list(given.shape)}, and"
            f" {list(own.shape)} here"
        )
    given = given.to(own)
    if is_b:
        own.zero_()
        own[:, : given.shape[1]] = given * scale
    else:
        own[: given.shape[0]] = given


def _scaling(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def _config(directory: Path, where: str) -> dict[str, Any]:
    file = directory / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{where} is not there: there is no {file}. Give the directory that PEFT's"
            " save_pretrained has written."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UsageError(f"{where} is no LoRA adapter: {file} does not have peft_type 'LORA'")
    for name, plain in _PLAIN.items():
        if config.get(name) not in (plain, None, False, [], {}):
            raise UsageError(
                f"{where} uses {name} = {json.dumps(config[name])}, which adapters here cannot do"
            )
    return config


def _weights(directory: Path, where: str) -> dict[str, Tensor]:
    file = directory / "adapter_model.safetensors"
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UsageError(
            f"{where} has no {file.name}: weights are read as safetensors alone"
        ) from None
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
