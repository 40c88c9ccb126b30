"""A model's skeleton: all its layers without weights, from its configuration alone.

What it shows can be refused before anything large is fetched or read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.quantizers.auto import AutoHfQuantizer

from ..config.settings import ModelSettings
from ..flow.errors import UsageError
from .quiet import quiet


class UntrustedCode(UsageError):
    """A model runs code of its own, which the settings do not trust."""


def nf4_config(dtype: torch.dtype) -> BitsAndBytesConfig:
    """What ``model.quantization = "nf4"`` asks transformers for."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def build_skeleton(
    directory: Path, settings: ModelSettings, dtype: torch.dtype = torch.bfloat16
) -> Any | None:
    """The model of a directory with a config.json, on the meta device.

    Args:
        dtype: what it is to compute in; its size alone depends on it.

    Returns:
        None if its weights' shapes are not to be had so: those of a checkpoint that is quantised,
        or of a model whose own code cannot do without weights.

    Raises:
        UsageError: it generates no text, transformers does not know it, its code is not trusted, it
            needs a package, or it cannot be quantised as the settings ask.
    """
    name = settings.name
    config = read_config(directory, settings)
    brings_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    own_code = brings_code and settings.trust_remote_code
    if getattr(config, "is_encoder_decoder", False):
        raise _no_generator(name, config, "it has an encoder, which reads prompts otherwise")
    if not own_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if brings_code:
            raise _untrusted(name)
        raise _no_generator(name, config, "transformers has no causal language model of this type")
    if getattr(config, "quantization_config", None):
        _check_quantized(config, settings)
        return None
    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=settings.trust_remote_code
            )
    except Exception as error:
        if own_code:
            return None
        raise cannot_load(name, error) from error
    causal = [m.is_causal for m in model.modules() if hasattr(m, "is_causal")]
    if getattr(config, "is_decoder", None) is False and not any(causal):
        raise _no_generator(name, config, "its tokens see those that come after them")
    if settings.quantization == "nf4":
        with quiet():
            AutoHfQuantizer.from_config(nf4_config(dtype)).preprocess_model(
                model=model, dtype=dtype, device_map={"": "cpu"}
            )
    return model


def read_config(directory: Path, settings: ModelSettings) -> Any:
    """The configuration in a directory.

    Raises:
        UsageError: transformers cannot read it.
    """
    try:
        with quiet():
            return AutoConfig.from_pretrained(
                directory, trust_remote_code=settings.trust_remote_code
            )
    except Exception as error:
        raise cannot_load(settings.name, error) from error


def model_context_of(config: Any) -> int | None:
    """The longest text that a model can read, in tokens; None if its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or None


def context_of(config: Any, settings: ModelSettings) -> int:
    """The longest prompt plus output in tokens: what the model and the settings allow.

    Raises:
        UsageError: neither says it, or the setting is above what the model allows.
    """
    model_context = model_context_of(config)
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


def cannot_load(name: str, error: Exception) -> UsageError:
    """What to tell a user about an error of transformers."""
    if "trust_remote_code" in str(error):
        return _untrusted(name)
    reason = next(iter(str(error).strip().splitlines()), "no details")
    return UsageError(f"transformers cannot load '{name}': {type(error).__name__}: {reason}")


def _untrusted(name: str) -> UntrustedCode:
    return UntrustedCode(
        f"the model '{name}' runs Python code that comes with it. Read that code;"
        " if you trust it, set model.trust_remote_code = true."
    )


def _check_quantized(config: Any, settings: ModelSettings) -> None:
    """Refuse a checkpoint that was quantised before if this machine cannot read it."""
    quantization = config.quantization_config
    about = quantization if isinstance(quantization, dict) else quantization.to_dict()
    method = str(about.get("quant_method", "unknown"))
    if settings.quantization != "none":
        raise UsageError(
            f"the weights of '{settings.name}' are quantised already ('{method}') and cannot be"
            " quantised again: set model.quantization = 'none', or take the model's plain weights"
        )
    try:
        with quiet():
            quantizer = AutoHfQuantizer.from_config(about, pre_quantized=True)
            device = settings.device if settings.device != "auto" else None
            quantizer.validate_environment(device_map={"": device} if device else None)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(
            f"the weights of '{settings.name}' are quantised ('{method}'), which cannot be read"
            f" here: {reason}"
        ) from error


def _no_generator(name: str, config: Any, why: str) -> UsageError:
    return UsageError(
        f"'{name}' (of type '{config.model_type}') is no model that generates text token by token:"
        f" {why}. Choose a decoder-only model."
    )
