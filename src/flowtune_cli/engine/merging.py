"""Merges an adapter into the base model's weights: a model that needs neither PEFT nor flowtune."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import GenerationConfig

from ..config.settings import ModelSettings
from ..flow.errors import FlowtuneError, UsageError
from ..models.loading import LoadedModel, load_model
from ..models.quiet import quiet

if TYPE_CHECKING:
    from ..registry import Registry


def merge_adapter(
    settings: ModelSettings,
    registry: Registry,
    adapter: Path,
    target: Path,
    *,
    dtype: str,
    template: str,
    ends: Sequence[int],
) -> None:
    """Write a whole model with an adapter in its weights, with tokenizer and generation config.

    The base model's weights are those that the run computed with, in its dtype. Weights are added
    up in float32, then rounded to ``dtype``.

    Args:
        settings: of the base model, whose weights must not be quantised.
        adapter: in PEFT's format.
        target: a directory that is there.
        dtype: "float32", "bfloat16" or "float16".
        template: the chat template that is written; empty if there is none.
        ends: the tokens that end an output.

    Raises:
        UsageError: the base model cannot be loaded, or the adapter does not fit it.
        FlowtuneError: the weights cannot be written.
    """
    loaded = load_model(settings.model_copy(update={"device": "cpu", "devices": 1}), registry)
    base = {name: tensor.dtype for name, tensor in loaded.model.state_dict().items()}
    try:
        with quiet(), warnings.catch_warnings():
            # Without weights for some layer, the adapter would be merged in part.
            warnings.simplefilter("error", UserWarning)
            with_adapter: Any = PeftModel.from_pretrained(loaded.model.float(), str(adapter))
            merged = with_adapter.merge_and_unload(safe_merge=True)
    except (OSError, RuntimeError, UserWarning, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UsageError(f"the adapter in {adapter} cannot be merged: {reason}") from error
    _round(merged, base, loaded.dtype, getattr(torch, dtype))
    try:
        _save(loaded, merged, target, template, ends)
    except SafetensorError as error:
        raise FlowtuneError(f"cannot write the weights to {target}: {error}") from error


def _round(
    model: nn.Module, before: Mapping[str, torch.dtype], old: torch.dtype, new: torch.dtype
) -> None:
    """Bring weights from float32 to their dtype; those that the model keeps in another keep it."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(new if before[name] == old else before[name])


def _save(
    loaded: LoadedModel, model: Any, target: Path, template: str, ends: Sequence[int]
) -> None:
    tokenizer = loaded.tokenizer
    # What flowtune decodes by: greedily, without a penalty that the base model's files ask for.
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=list(ends),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.eos_token_id
        if tokenizer.pad_token_id is None
        else tokenizer.pad_token_id,
    )
    if template:
        tokenizer.chat_template = template
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
