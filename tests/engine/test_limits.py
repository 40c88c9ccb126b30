"""Limits follow from the machine's memory and the model's size alone."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
)

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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The free memory in GiB of a GPU on which all models are."""
    gib = [64.0]
    cuda = property(lambda model: torch.device("cuda"))
    monkeypatch.setattr(PreTrainedModel, "device", cuda)
    monkeypatch.setattr(limits, "available_bytes", lambda device: int(gib[0] * GIB))
    return gib


def test_on_a_gpu_free_memory_decides(gpu: list[float]) -> None:
    assert Limits.for_model(large()) == Limits(16384, 2048, 24 * GIB)
    gpu[0] = 4
    assert Limits.for_model(large()) == Limits(1024, 128, 3 * GIB // 2)
    gpu[0] = 0.1
    assert Limits.for_model(large()) == Limits(64, 64, 64 * 2**20)


def test_on_a_gpu_the_prefixes_of_a_mini_batch_fit_beside_a_model_of_the_paper(
    gpu: list[float],
) -> None:
    # Eight examples of MuSiQue have at most 27,000 tokens, of which Phi-3-medium holds 204,800
    # bytes each; in bfloat16 it leaves half of a GPU of 80 GB free.
    gpu[0] = 48
    model = llama(
        torch.bfloat16,
        vocab_size=32064,
        hidden_size=5120,
        intermediate_size=17920,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=10,
    )
    assert limits._bytes_of_keys_and_values(model) == 204_800
    assert Limits.for_model(model).prefix_cache_bytes > 27_000 * 204_800


def test_every_kind_of_layer_counts() -> None:
    with torch.device("meta"):
        gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_embd=64, n_layer=2, n_head=4))
        sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_local_experts": 8}
        mixtral = AutoModelForCausalLM.from_config(
            MixtralConfig(num_experts_per_tok=2, **sizes, **heads)
        )
    in_and_out = (64 + 192) + (64 + 64) + (64 + 256) + (256 + 64)
    assert limits._bytes_of_graph(gpt2) == 2 * in_and_out * 4
    experts = 2 * ((64 + 64) + (32 + 64))
    assert limits._bytes_of_graph(mixtral) == (4 * 128 + experts) * 4
