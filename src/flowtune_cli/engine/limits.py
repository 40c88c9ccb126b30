"""How much is computed and remembered at once, derived from the machine and the model.

Total memory decides, never what happens to be free, so the same machine gives the same batches and,
in bfloat16, the same run. In float32 results do not depend on batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models.memory import total_bytes

_MB = 2**20


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

        A sixteenth for the prefix cache, as much for decoding, and an eighth for gradients. A pass
        never has more tokens than the defaults, with which docs/speed.md was measured.
        """
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        spare = max(total_bytes(model.device) - weights, 0)
        config = model.config.get_text_config(decoder=True)
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys_values = 2 * config.num_hidden_layers * groups * size * model.dtype.itemsize
        # About what a backward pass needs of a token: inputs and outputs of the linear layers.
        linear = [m for m in model.get_decoder().modules() if isinstance(m, nn.Linear)]
        graph = sum(m.in_features + m.out_features for m in linear) * model.dtype.itemsize
        return cls(
            min(_power_of_two(spare / 16 / (4 * keys_values)), cls.tokens_per_batch),
            min(_power_of_two(spare / 8 / max(graph, 1)), cls.learning_tokens_per_batch),
            max(round(spare / 16 / (256 * _MB)) * 256 * _MB, 64 * _MB),
        )


def _power_of_two(most: float) -> int:
    """The largest power of two that is not above ``most``, 64 at least."""
    return 1 << max(int(most).bit_length() - 1, 6)
