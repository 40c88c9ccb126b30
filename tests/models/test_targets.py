"""Each architecture's layers are found in the model, and only in what it generates text with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import AutoConfig, AutoModelForCausalLM

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.targets import fused_experts, linear_layers, resolve_targets

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "n_group": 1}


def build(kind: str, device: str = "meta", **more: Any) -> Any:
    config = AutoConfig.for_model(kind)
    text = config.get_text_config(decoder=True)
    names = {**text.attribute_map, **{name: name for name in TINY | EXPERTS | more}}
    for name, value in (TINY | EXPERTS | more).items():
        # Some have a property that cannot be set in the place of a size.
        if hasattr(text, names[name]) and not isinstance(getattr(type(text), name, None), property):
            setattr(text, name, value)
    kinds = getattr(text, "layer_types", None)
    if kinds and not isinstance(getattr(type(text), "layer_types", None), property):
        text.layer_types = list(dict.fromkeys(kinds))
        text.num_hidden_layers = len(text.layer_types)
    if vision := getattr(config, "vision_config", None):
        vision.num_hidden_layers = 2
        vision.hidden_size = vision.intermediate_size = 48
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        ("llama", ["q_proj", "v_proj"]),
        ("mistral", ["q_proj", "v_proj"]),
        ("qwen3", ["q_proj", "v_proj"]),
        ("gemma3_text", ["q_proj", "v_proj"]),
        ("gemma3", ["q_proj", "v_proj"]),
        ("mixtral", ["q_proj", "v_proj"]),
        ("phi", ["q_proj", "v_proj"]),
        ("opt", ["v_proj", "q_proj"]),
        ("gptj", ["v_proj", "q_proj"]),
        ("phi3", ["qkv_proj"]),
        ("codegen", ["qkv_proj"]),
        ("gpt_neox", ["query_key_value"]),
        ("falcon", ["query_key_value"]),
        ("bloom", ["query_key_value"]),
        ("gpt2", ["c_attn"]),
        ("gpt_bigcode", ["c_attn"]),
        ("mpt", ["Wqkv"]),
        ("deepseek_v3", ["q_b_proj", "kv_b_proj"]),
        ("minicpm3", ["q_b_proj", "kv_b_proj"]),
        ("qwen3_next", ["in_proj_qkvz", "q_proj", "v_proj"]),
        ("mamba", ["in_proj", "x_proj", "dt_proj"]),
    ],
)
def test_what_auto_finds(kind: str, auto: list[str]) -> None:
    assert resolve_targets(build(kind), "auto") == auto


def test_auto_is_what_peft_adapts_where_peft_says_so() -> None:
    checked = 0
    for kind, known in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items():
        # PEFT adapts phi's other layers too, and llama4's class here has no decoder of its own.
        if kind in ("phi", "llama4", "gemma4", "nemotron_h") or isinstance(known, str):
            continue
        try:
            model = build(kind)
            model.get_decoder().get_submodule("layers")
        except (ValueError, AttributeError):
            continue  # no decoder
        if getattr(model.config, "is_decoder", True) or kind in ("llama", "gemma"):
            assert set(resolve_targets(model, "auto")) == set(known), kind
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"),
        ("gpt2", "c_attn c_proj c_fc"),
        ("phi3", "o_proj qkv_proj gate_up_proj down_proj"),
        ("mixtral", "q_proj k_proj v_proj o_proj"),
    ],
)
def test_all_linear_is_all_but_the_output_layer(kind: str, layers: str) -> None:
    assert resolve_targets(build(kind), "all-linear") == layers.split()


def test_names_have_to_exist() -> None:
    model = build("llama")
    names = ["v_proj", "down_proj", "lm_head"]
    assert resolve_targets(model, names) == names
    with pytest.raises(
        UsageError, match=r"adapter\.targets: 'qkv_proj'.*Known: .*k_proj, .*q_proj"
    ):
        resolve_targets(model, ["q_proj", "qkv_proj"])
    with pytest.raises(UsageError, match="'input_layernorm'"):
        resolve_targets(model, ["input_layernorm"])
    # The names of the tower that reads pictures are none.
    with pytest.raises(UsageError, match=r"'fc1'"):
        resolve_targets(build("gemma3"), ["fc1"])


def test_a_model_without_attention_has_to_be_told_its_layers() -> None:
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn = torch.nn.Identity()
    with pytest.raises(UsageError, match=r"'auto' finds no layer.*: down_proj, gate_proj, up_proj"):
        resolve_targets(model, "auto")


def test_names_that_peft_takes_for_experts_are_refused() -> None:
    model = build("deepseek_v3", first_k_dense_replace=1)
    found = resolve_targets(model, "all-linear")
    assert "o_proj" in found
    assert not {"gate_proj", "up_proj", "down_proj"} & set(found)
    with pytest.raises(
        UsageError, match=r"takes 'down_proj' .*experts.*\(gate_up_proj, down_proj\)"
    ):
        resolve_targets(model, ["q_b_proj", "down_proj"])


def test_experts_that_share_a_parameter_are_known() -> None:
    assert fused_experts(build("mixtral")) == ["gate_up_proj", "down_proj"]
    assert fused_experts(build("llama")) == fused_experts(build("qwen3_next", num_experts=0)) == []


@pytest.mark.parametrize("targets", ["auto", "all-linear"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "phi3", "mixtral", "deepseek_v3"])
def test_adapters_are_on_the_decoder_alone_and_learn(kind: str, targets: Any) -> None:
    sizes = {"q_lora_rank": 8, "kv_lora_rank": 8, "head_dim": 64, "num_key_value_heads": 4}
    small = sizes if kind == "deepseek_v3" else {}
    model = build(kind, "cpu", moe_intermediate_size=16, **small)
    model.requires_grad_(False)
    expected = {
        name
        for name in linear_layers(model)
        if name.rpartition(".")[2] in resolve_targets(model, targets)
    }
    adapters = Adapters(model, {"a": {}}, AdapterSettings(rank=2, targets=targets), 0)
    assert len(adapters.parameters("a")) == 2 * len(expected) > 0
    assert not any("vision" in name for name, p in model.named_parameters() if p.requires_grad)
    with adapters.using("a") as adapted:
        adapted(torch.tensor([[1, 2, 3, 4]]), labels=torch.tensor([[1, 2, 3, 4]])).loss.backward()
    # B begins at zero, so A's gradient is, too.
    assert all(p.grad is not None for p in adapters.parameters("a"))


def test_auto_adapts_what_was_named_before_to_the_bit() -> None:
    named, auto = (
        Adapters(build("llama", "cpu"), {"a": {}}, AdapterSettings(targets=targets), 3)
        for targets in (["q_proj", "v_proj"], "auto")
    )
    for one, other in zip(named.parameters("a"), auto.parameters("a"), strict=True):
        assert torch.equal(one, other)
