"""Loads the base model that all nodes share, with its tokenizer, as the settings ask for it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..config.settings import ModelSettings
from ..flow.errors import UsageError, unknown_name
from .devices import faster_dtype
from .files import ModelFiles, find_model
from .memory import Weight, check_memory, check_quantized, model_bytes, weight_bytes
from .out_of_memory import OutOfMemory, is_out_of_memory
from .quiet import quiet
from .skeleton import (
    build_skeleton,
    cannot_load,
    context_of,
    model_context_of,
    nf4_config,
    read_config,
)
from .split import DeviceMap, bytes_by_device, device_map

if TYPE_CHECKING:
    from ..registry import Registry


@dataclass
class LoadedModel:
    """A base model, frozen and in evaluation mode.

    Args:
        model: a transformers causal language model.
        tokenizer: a transformers tokenizer; it may have no chat template.
        device: where it reads tokens, and gives logits; some of its layers may be on others.
        dtype: what it computes in, also where its weights are stored in 4 bits.
        context: the longest prompt plus output, in tokens.
        model_context: the longest that the model can read; None if its configuration has none.
        name: as in the settings.
        commit: of a hub's repository, from which it was loaded.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    context: int
    model_context: int | None
    name: str
    commit: str | None = None


def load_model(
    settings: ModelSettings,
    registry: Registry,
    check_skeleton: Callable[[Any], None] = lambda model: None,
) -> LoadedModel:
    """Load the base model.

    Args:
        registry: has the models that plugins provide.
        check_skeleton: gets the model without weights before these are fetched or read, where it
            can be built; may raise.

    Raises:
        UsageError: no such model, device or revision; no safe weights; not enough memory; an
            architecture that transformers does not know.
    """
    devices = choose_devices(settings)
    device = devices[0]
    dtype = choose_dtype(settings, device)
    quantized = settings.quantization == "nf4"
    if quantized and settings.name.lower().endswith(".gguf"):
        raise UsageError(
            "a GGUF file, whose weights were quantised before, cannot be quantised again: set"
            " model.quantization = 'none', or take the model's safetensors"
        )
    if quantized and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("model.quantization = 'nf4' needs the package bitsandbytes: install it")

    checks = Checks(settings, devices, dtype, check_skeleton)
    files = find_model(settings, checks, registry)
    model, tokenizer = _load(files, settings, checks.device_map, dtype)
    if quantized:
        check_quantized(settings.name, model)
    if quantized and device.type == "cpu":
        _keep_gradients(model)
    model.requires_grad_(False)
    model.eval()
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of '{settings.name}' has no end-of-text token (eos_token), so outputs"
            " could not end"
        )
    _check_vocabulary(model, tokenizer, settings)
    context = context_of(model.config, settings)
    model_context = model_context_of(model.config)
    return LoadedModel(
        model, tokenizer, device, dtype, context, model_context, settings.name, files.commit
    )


@dataclass
class Checks:
    """What is refused before a model's weights are fetched or read.

    Args:
        devices: that the model is to be on.
        check_skeleton: see ``load_model``.

    Attributes:
        device_map: where each part of the model goes.
    """

    settings: ModelSettings
    devices: Sequence[torch.device]
    dtype: torch.dtype
    check_skeleton: Callable[[Any], None] = lambda model: None
    device_map: DeviceMap = field(init=False)
    _built: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.device_map = {"": str(self.devices[0])}

    def config(self, directory: Path) -> None:
        """Check a directory with the model's config.json, be there weights or not."""
        context_of(read_config(directory, self.settings), self.settings)
        skeleton = build_skeleton(directory, self.settings, self.dtype)
        self._built = skeleton is not None
        if skeleton is None:
            return
        self.check_skeleton(skeleton)
        if self.settings.quantization == "nf4":
            check_quantized(self.settings.name, skeleton)
        if len(self.devices) > 1:
            self.device_map = device_map(skeleton, self.devices)
            for device, needed in bytes_by_device(skeleton, self.device_map).items():
                self._memory(needed, torch.device(device))
        else:
            self._memory(model_bytes(skeleton), self.devices[0])

    def weights(self, weights: list[Weight]) -> None:
        """Check the headers of the weights."""
        if self._built:
            return
        if len(self.devices) > 1:
            raise UsageError(
                f"model.devices is {len(self.devices)}, and '{self.settings.name}' cannot be split:"
                " its layers are not known before its weights are read, as it is a GGUF file,"
                " quantised already, or runs code of its own. Set model.devices = 1, or take the"
                " model's plain safetensors."
            )
        quantized = self.settings.quantization == "nf4"
        self._memory(weight_bytes(weights, self.dtype, quantized), self.devices[0])

    def _memory(self, needed: int, device: torch.device) -> None:
        check_memory(self.settings, needed, device, self.dtype)


def choose_devices(settings: ModelSettings) -> tuple[torch.device, ...]:
    """The devices that a model is to be on, in the order of its layers.

    Of several processes on a machine, the first takes the first ``model.devices`` GPUs, and so on.

    Raises:
        UsageError: there are not so many.
    """
    count = settings.devices
    if count == 1:
        return (choose_device(settings.device),)
    if settings.device not in ("auto", "cuda"):
        raise UsageError(
            f"model.devices is {count}, and model.device is '{settings.device}': a model is split"
            " over GPUs, from the first on. Set model.device = 'auto' (and CUDA_VISIBLE_DEVICES for"
            " others), or model.devices = 1."
        )
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sees = f"torch {torch.__version__} sees {there or 'no'} GPU{'s' * (there != 1)} here"
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and not rank.isdigit():
        raise UsageError(f"LOCAL_RANK is '{rank}', which is no number from 0 on")
    first = int(rank or 0) * count
    if first + count > there:
        if rank is None:
            raise UsageError(f"model.devices is {count}, but {sees}. Set it to {max(there, 1)}.")
        raise UsageError(
            f"model.devices is {count} and LOCAL_RANK {rank}, so this process would take the GPUs"
            f" {first} to {first + count - 1}, but {sees}: of"
            f" such processes {there // count} fit on this machine. Start fewer, or set"
            " model.devices lower."
        )
    return tuple(torch.device("cuda", number) for number in range(first, first + count))


def choose_device(wanted: str) -> torch.device:
    """The device that the setting names; 'auto' is a GPU if there is one, else the CPU.

    Of several processes that a launcher such as torchrun starts, each takes its own GPU.

    Raises:
        UsageError: there is no such device.
    """
    if wanted == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return _own_gpu(os.environ.get("LOCAL_RANK"))
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise unknown_name("device", wanted, ["auto", "cpu", "cuda"]) from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        reason = f"torch {torch.__version__} sees {count or 'no'} GPU{'s' * (count != 1)} here"
        raise UsageError(f"model.device is '{wanted}', but {reason}. Set it to 'auto' or 'cpu'.")
    return device


def _own_gpu(rank: str | None) -> torch.device:
    """The GPU of this process among those on this machine; LOCAL_RANK is its number."""
    if rank is None:
        return torch.device("cuda")
    count = torch.cuda.device_count()
    if not rank.isdigit() or int(rank) >= count:
        raise UsageError(
            f"LOCAL_RANK is '{rank}', and torch sees {count} GPU{'s' * (count != 1)} here: start no"
            " more processes on a machine than it has GPUs, or set model.device"
        )
    return torch.device("cuda", int(rank))


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


def _load(
    files: ModelFiles, settings: ModelSettings, where: DeviceMap, dtype: torch.dtype
) -> tuple[Any, Any]:
    options: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if files.gguf:
        print(f"reading {files.gguf}: this takes a while at every start", file=sys.stderr)
        options["gguf_file"] = files.gguf
    model_options = options | {"dtype": dtype, "device_map": where}
    if settings.quantization == "nf4":
        model_options["quantization_config"] = nf4_config(dtype)
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
        if is_out_of_memory(error):
            devices = ", ".join(dict.fromkeys(where.values()))
            raise OutOfMemory(
                f"memory ran out on {devices} while the weights of '{settings.name}' were read:"
                " free some, take a smaller model, or one whose weights take less (model.dtype ="
                f" '{settings.dtype}' and model.quantization = '{settings.quantization}' now)"
            ) from error
        raise cannot_load(settings.name, error) from error
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


def _check_vocabulary(model: Any, tokenizer: Any, settings: ModelSettings) -> None:
    """Check that the model has an embedding for every token that a text can have.

    Special tokens that nothing writes, such as one for padding, do no harm.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = [text for text, index in tokenizer.get_vocab().items() if index >= rows]
    if not settings.special_tokens_in_text:
        template = str(tokenizer.chat_template or "")
        used = {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])}
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}
        unused = {text for text in special if text not in template} - used
        beyond = [text for text in beyond if text not in unused]
    if beyond:
        raise UsageError(
            f"the tokenizer of '{settings.name}' has {len(beyond)} tokens, such as {min(beyond)!r},"
            f" that are beyond the {rows} of the model's embedding. Take the tokenizer that the"
            " model was trained with, or a model whose embedding was resized for it."
        )
