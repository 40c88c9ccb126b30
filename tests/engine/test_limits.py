"""Limits follow from the machine's memory and the model's size alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from flowtune_cli.engine import limits
from flowtune_cli.engine.limits import Limits

GIB = 2**30


def llama(dtype: torch.dtype, **sizes: int) -> torch.nn.Module:
    """A model of these sizes, without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype)


def small(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The sizes of a model of 135 million weights."""
    return llama(
        dtype,
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def large() -> torch.nn.Module:
    """The sizes of a model of 8 billion weights."""
    return llama(
        torch.bfloat16,
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The machine's memory in GiB."""
    gib = [24.0]
    monkeypatch.setattr(limits, "total_bytes", lambda device: int(gib[0] * GIB))
    return gib


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gib", [23.5, 24.0])
def test_a_small_model_has_the_defaults(
    memory: list[float], dtype: torch.dtype, gib: float
) -> None:
    memory[0] = gib
    assert Limits.for_model(small(dtype)) == Limits(4096, 1024, 1536 * 2**20)


def test_less_memory_or_a_larger_model_has_less(memory: list[float]) -> None:
    memory[0] = 6
    assert Limits.for_model(small()) == Limits(1024, 512, 256 * 2**20)
    memory[0] = 24
    assert Limits.for_model(large()) == Limits(1024, 128, 512 * 2**20)
    memory[0] = 80
    assert Limits.for_model(large()) == Limits(4096, 1024, 4096 * 2**20)


def test_a_model_that_hardly_fits_has_the_least(memory: list[float]) -> None:
    memory[0] = 14
    assert Limits.for_model(large()) == Limits(64, 64, 64 * 2**20)
