"""Loads the base model that all nodes share, with its tokenizer, as the settings ask for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from ..config.settings import ModelSettings
from ..flow.errors import UsageError, unknown_name
from .devices import faster_dtype
from .files import ModelFiles, find_model
from .memory import Weight, check_memory, weight_bytes
from .quiet import quiet

if TYPE_CHECKING:
    from ..registry import Registry


@dataclass
class LoadedModel:
    """A base model, frozen and in evaluation mode.

    Args:
        model: a transformers causal language model.
        tokenizer: a transformers tokenizer; it may have no chat template.
        dtype: what it computes in, also where its weights are stored in 4 bits.
        context: the longest prompt plus output, in tokens.
        model_context: the longest that the model can read; None if its configuration has none.
        name: as in the settings.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    context: int
    model_context: int | None
    name: str


def load_model(settings: ModelSettings, registry: Registry) -> LoadedModel:
    """Load the base model.

    Args:
        registry: has the models that plugins provide.

    Raises:
        UsageError: no such model, device or revision; no safe weights; not enough memory; an
            architecture that transformers does not know.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings, device)
    quantized = settings.quantization == "nf4"
    if quantized and settings.name.lower().endswith(".gguf"):
        raise UsageError(
            "a GGUF file, whose weights were quantised before, cannot be quantised again: set"
            " model.quantization = 'none', or take the model's safetensors"
        )
    if quantized and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("model.quantization = 'nf4' needs the package bitsandbytes: install it")

    def check(weights: list[Weight]) -> None:
        check_memory(settings.name, weight_bytes(weights, dtype, quantized), device, dtype)

    files = find_model(settings, check, registry)
    model, tokenizer = _load(files, settings, device, dtype)
    if quantized and device.type == "cpu":
        _keep_gradients(model)
    model.requires_grad_(False)
    model.eval()
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of '{settings.name}' has no end-of-text token (eos_token), so outputs"
            " could not end"
        )
    model_context = _model_context(model.config)
    context = _context(model_context, settings)
    return LoadedModel(model, tokenizer, device, dtype, context, model_context, settings.name)


def choose_device(wanted: str) -> torch.device:
    """The device that the setting names; 'auto' is a GPU if there is one, else the CPU.

    Raises:
        UsageError: there is no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise unknown_name("device", wanted, ["auto", "cpu", "cuda"]) from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        reason = f"torch {torch.__version__} sees {count or 'no'} GPU{'s' * (count != 1)} here"
        raise UsageError(f"model.device is '{wanted}', but {reason}. Set it to 'auto' or 'cpu'.")
    return device


def choose_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """The dtype to compute in.

    'auto' is bfloat16 where that is clearly faster on the device, or weights are 4-bit.
    """
    if settings.dtype != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[settings.dtype]
    return torch.bfloat16 if settings.quantization == "nf4" else faster_dtype(device)


def check_targets(model: torch.nn.Module, targets: Sequence[str]) -> None:
    """Check that the layers to adapt exist, so that no adapter silently adapts nothing.

    Raises:
        UsageError: no linear layer goes by one of the names; says which names there are.
    """
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
    }
    for target in targets:
        if target not in names:
            raise unknown_name("layer in adapter.targets:", target, sorted(names))


def _load(
    files: ModelFiles, settings: ModelSettings, device: torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if files.gguf:
        print(f"reading {files.gguf}: this takes a while at every start", file=sys.stderr)
        options["gguf_file"] = files.gguf
    model_options = options | {"dtype": dtype, "device_map": {"": str(device)}}
    if settings.quantization == "nf4":
        model_options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                files.directory,
                use_safetensors=True,
                output_loading_info=True,
                **model_options,
            )
            tokenizer = AutoTokenizer.from_pretrained(files.directory, **options)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"the model '{settings.name}' runs Python code that comes with it. Read that code;"
                " if you trust it, set model.trust_remote_code = true."
            ) from error
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"transformers cannot load '{settings.name}': {type(error).__name__}: {reason}"
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if missing:
        raise UsageError(
            f"the weights of '{settings.name}' do not fill a language model: {len(missing)} tensors"
            f" are missing or of another shape, such as {missing[0]}"
        )
    return model, tokenizer


def _keep_gradients(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking weights for inference on CPUs with AVX512-BF16.

    Once it has, a later backward pass gets no gradient, with only a warning.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _model_context(config: Any) -> int | None:
    return getattr(config.get_text_config(), "max_position_embeddings", None) or None


def _context(model_context: int | None, settings: ModelSettings) -> int:
    if model_context is None and not settings.context:
        raise UsageError(
            f"the configuration of '{settings.name}' does not say how long a text may be: set"
            " model.context"
        )
    if model_context is not None and settings.context > model_context:
        raise UsageError(
            f"model.context is {settings.context}, and '{settings.name}' reads {model_context}"
            f" tokens at most: set model.context to {model_context} or less, or to 0 for all that"
            " the model allows"
        )
    return settings.context or model_context or 0
