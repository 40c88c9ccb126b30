"""What a model's configuration says of how far its layers look back."""

from __future__ import annotations

from typing import Any


def bites(config: Any, context: int | None = None) -> bool:
    """Whether some layers attend to a part of the past only, in texts of up to ``context`` tokens.

    A window as wide as the longest text hides nothing, as Phi-3's.
    """
    text = config.get_text_config(decoder=True)
    sizes = [size for name in WINDOWS if (size := window(text, name))]
    kinds = set(getattr(text, "layer_types", None) or ())
    if not sizes:
        return bool(kinds & {"sliding_attention", "chunked_attention"})
    longest = context or getattr(text, "max_position_embeddings", None)
    return longest is None or min(sizes) < longest


WINDOWS = ("sliding_window", "attention_chunk_size")
"""The settings that say how many tokens a layer attends to."""


def window(text: Any, name: str) -> int | None:
    """A window that a text configuration asks for, in tokens; None if it has none."""
    size = getattr(text, name, None)
    if name == "sliding_window" and not getattr(text, "use_sliding_window", True):
        # What is off by this may still be on by the layers' own types.
        kinds = getattr(text, "layer_types", None) or ()
        size = size if "sliding_attention" in kinds else None
    return size if isinstance(size, int) and size > 0 else None


def rope_switch(config: Any, context: int | None = None) -> int | None:
    """The longest text, in tokens, in which rotary embeddings stay as they are; None if in all.

    Those of LongRoPE (Ding et al. 2024, arXiv:2402.13753) have other factors for texts beyond the
    length of pretraining, and transformers takes them for all rows of a pass that has a longer one.
    """
    text = config.get_text_config(decoder=True)
    found = [size for group in rope_groups(text) if (size := switch(group))]
    longest = context or getattr(text, "max_position_embeddings", None)
    return min(found) if found and (longest is None or min(found) < longest) else None


def rope_groups(text: Any) -> list[dict[str, Any]]:
    """The parameters of rotary embeddings: one table, or one for each type of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [group for group in parameters.values() if isinstance(group, dict)]
    return nested or [parameters]


def switch(group: dict[str, Any]) -> int | None:
    """Where one table of rotary parameters changes its factors, in tokens."""
    if group.get("rope_type") != "longrope":
        return None
    size = group.get("original_max_position_embeddings")
    return int(size) if size else None
