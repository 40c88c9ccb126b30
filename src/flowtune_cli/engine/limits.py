"""How much is computed and remembered at once, derived from the machine and the model.

On a processor total memory decides, never what happens to be free, so the same machine gives the
same batches and, in bfloat16, the same run. On a GPU it is what is free once the model is there, as
others may hold most of it. In float32 results do not depend on batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ..models.memory import available_bytes, total_bytes
from ..models.split import split_devices
from ..models.targets import fused_experts

_MB = 2**20

_GPU_TOKENS_PER_BATCH = 16384
_GPU_LEARNING_TOKENS_PER_BATCH = 8192
"""The most tokens of a pass on a GPU, which more would hardly keep busier."""


@dataclass(frozen=True)
class Limits:
    """What a pass and the memory between passes may hold.

    Args:
        tokens_per_batch: tokens in one forward pass; decoding holds the keys and values of four
            times as many.
        learning_tokens_per_batch: tokens in one forward pass that keeps gradients. What has more
            is computed twice, layer by layer.
        prefix_cache_bytes: keys and values of prompts that are remembered.
    """

    tokens_per_batch: int = 4096
    learning_tokens_per_batch: int = 1024
    prefix_cache_bytes: int = 1536 * _MB

    @classmethod
    def for_model(cls, model: Any) -> Limits:
        """Shares of the memory that the model's weights leave on its device.

        On a processor a sixteenth for the prefix cache, as much for decoding, and an eighth for
        gradients. A pass never has more tokens than the defaults, with which docs/speed.md was
        measured. On a GPU, which holds little else, three eighths, an eighth and a quarter.
        """
        keys_values = _bytes_of_keys_and_values(model)
        graph = max(_bytes_of_graph(model), 1)
        if model.device.type == "cuda":
            # The fullest device decides, though each holds its own layers' share alone.
            spare = min(map(available_bytes, split_devices(model) or [model.device]))
            return cls(
                min(_power_of_two(spare / 8 / (4 * keys_values)), _GPU_TOKENS_PER_BATCH),
                min(_power_of_two(spare / 4 / graph), _GPU_LEARNING_TOKENS_PER_BATCH),
                max(spare * 3 // 8, 64 * _MB),
            )
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        spare = max(total_bytes(model.device) - weights, 0)
        return cls(
            min(_power_of_two(spare / 16 / (4 * keys_values)), cls.tokens_per_batch),
            min(_power_of_two(spare / 8 / graph), cls.learning_tokens_per_batch),
            max(round(spare / 16 / (256 * _MB)) * 256 * _MB, 64 * _MB),
        )


def _bytes_of_keys_and_values(model: Any) -> int:
    """What a token's keys and values take in all layers."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * groups * size * model.dtype.itemsize)


def _bytes_of_graph(model: Any) -> int:
    """About what a backward pass needs of a token: inputs and outputs of the linear layers, and of
    the experts that it goes to."""
    decoder = model.get_decoder()
    sizes = 0
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            sizes += module.in_features + module.out_features
        elif isinstance(module, Conv1D):
            sizes += sum(module.weight.shape)
    config = model.config.get_text_config(decoder=True)
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    experts = set(fused_experts(model))
    for name, parameter in decoder.named_parameters():
        if name.rpartition(".")[2] in experts and parameter.dim() == 3:
            sizes += chosen * sum(parameter.shape[1:])
    return int(sizes * model.dtype.itemsize)


def _power_of_two(most: float) -> int:
    """The largest power of two that is not above ``most``, 64 at least."""
    return 1 << max(int(most).bit_length() - 1, 6)
