"""The memory that weights take and a device has, and the refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import memory
from flowtune_cli.models.memory import (
    Weight,
    check_memory,
    check_quantized,
    model_bytes,
    weight_bytes,
)
from flowtune_cli.models.quiet import quiet
from flowtune_cli.models.skeleton import build_skeleton, nf4_config

WEIGHTS = [
    Weight("model.embed_tokens.weight", [100, 10]),
    Weight("model.layers.0.q_proj.weight", [10, 10]),
    Weight("model.norm.weight", [10]),
]


def test_weights_take_the_bytes_of_the_dtype() -> None:
    assert weight_bytes(WEIGHTS, torch.float32, quantized=False) == 4 * 1110
    assert weight_bytes(WEIGHTS, torch.bfloat16, quantized=False) == 2 * 1110


def test_only_the_matrices_of_layers_are_quantised() -> None:
    assert weight_bytes(WEIGHTS, torch.bfloat16, quantized=True) == int(2 * 1010 + 0.516 * 100)


def test_packed_integers_stay_as_they_are() -> None:
    assert weight_bytes([Weight("q_proj.weight", [50, 1], 50)], torch.float32, False) == 50


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 3_000_000_000)
    cpu = torch.device("cpu")
    settings = ModelSettings(name="some/model")
    check_memory(settings, 3_000_000_000, cpu, torch.float32)
    with pytest.raises(UsageError, match=r"'some/model' need 28\.0 GB in float32 on cpu.*3\.0 GB"):
        check_memory(settings, 28_000_000_000, cpu, torch.float32)
    with pytest.raises(UsageError, match=r"free\. Take a smaller model, or set model\.quant"):
        check_memory(settings, 28_000_000_000, cpu, torch.bfloat16)
    quantized = ModelSettings(name="some/model", quantization="nf4")
    with pytest.raises(UsageError, match=r"GB in NF4 on cpu.*Take a smaller model\.$"):
        check_memory(quantized, 28_000_000_000, cpu, torch.bfloat16)


def build(directory: Path, kind: str, tied: bool) -> Path:
    """A model whose layers are large beside its tables of 4-bit numbers."""
    sizes = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "num_experts": 4,
        "num_local_experts": 4,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "layer_types": ["full_attention"] * 2,
    }
    config = AutoConfig.for_model(kind)
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def held(model: Any) -> int:
    """The bytes of everything that a loaded model holds, with what goes with 4-bit weights."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            inner = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            tensors |= {id(t): t for t in inner}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen2_moe", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_is_what_is_held(tmp_path: Path, kind: str, tied: bool, dtype: str) -> None:
    directory = build(tmp_path, kind, tied)
    settings = ModelSettings(name=str(tmp_path), dtype=dtype)
    skeleton = build_skeleton(directory, settings, getattr(torch, dtype))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    assert model_bytes(skeleton) == held(model) == model_bytes(model)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen2_moe", "gpt2"])
def test_the_estimate_in_4_bits_is_what_is_held(tmp_path: Path, kind: str, tied: bool) -> None:
    directory = build(tmp_path, kind, tied)
    settings = ModelSettings(name=str(tmp_path), quantization="nf4")
    skeleton = build_skeleton(directory, settings, torch.bfloat16)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.bfloat16, quantization_config=nf4_config(torch.bfloat16)
        )
    assert model_bytes(skeleton) == pytest.approx(held(model), rel=0.02)
    assert model_bytes(model) == pytest.approx(held(model), rel=0.02)
    for each in (skeleton, model):
        if kind in ("llama", "gpt2"):
            check_quantized("some/model", each)
        else:
            with pytest.raises(
                UsageError, match=r"leave \d\d% of the layers .*experts\.gate_up_proj"
            ):
                check_quantized("some/model", each)


def test_the_machine_has_memory() -> None:
    cpu = torch.device("cpu")
    assert memory.total_bytes(cpu) > memory.available_bytes(cpu) > 1_000_000


def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (tmp_path / "missing", limit))
    limit.write_text("max\n")
    whole = memory.total_bytes(torch.device("cpu"))
    for written, expected in ((str(10**6), 10**6), (str(2**63), whole)):
        limit.write_text(f"{written}\n")
        assert memory.total_bytes(torch.device("cpu")) == expected
