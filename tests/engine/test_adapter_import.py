"""Adapters that were trained elsewhere, by plain PEFT."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from flowtune_cli.engine.adapter_import import import_adapter
from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import logits, make_adapters, same, state, text

IDS = text(12)


def trained(tiny_model: LoadedModel, directory: Path, **more: Any) -> torch.Tensor:
    """Save an adapter of PEFT's own; returns what it computes."""
    options = {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], **more}
    peft = get_peft_model(copy.deepcopy(tiny_model.model), LoraConfig(**options))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    peft.save_pretrained(str(directory))
    with torch.no_grad():
        found: torch.Tensor = peft(torch.tensor([IDS], device=DEVICE)).logits[0]
    return found


@pytest.mark.parametrize(
    "more", [{}, {"r": 4, "use_rslora": True}, {"target_modules": ["q_proj"]}, {"r": 1}]
)
def test_a_node_answers_as_with_the_adapter_given(
    tiny_model: LoadedModel, tmp_path: Path, more: dict[str, Any]
) -> None:
    expected = trained(tiny_model, tmp_path, **more)
    adapters = make_adapters(tiny_model, targets=["q_proj", "v_proj"])
    other = state(adapters, "b")
    import_adapter(adapters, "a", tmp_path)
    found = logits(adapters, "a", IDS)
    assert (found - expected).abs().max() < 1e-4
    assert (logits(adapters, None, IDS) - expected).abs().max() > 1e-2
    assert same(state(adapters, "a"), state(adapters, reference_of("a")))
    assert adapters.version("a") == adapters.version(reference_of("a")) == 0
    assert same(state(adapters, "b"), other)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"r": 8}, r"has rank 8: set adapter\.rank = 8"),
        ({"target_modules": ["k_proj"]}, r"is not adapted here: .*k_proj.*\[\"k_proj\"\]"),
        ({"use_dora": True}, "uses use_dora = true, which adapters here cannot do"),
        ({"bias": "lora_only"}, 'uses bias = "lora_only"'),
        ({"rank_pattern": {"q_proj": 1}}, "uses rank_pattern"),
    ],
)
def test_adapters_that_do_not_fit(
    tiny_model: LoadedModel, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    trained(tiny_model, tmp_path, **more)
    adapters = make_adapters(tiny_model, targets=["q_proj", "v_proj"])
    with pytest.raises(UsageError, match=said) as caught:
        import_adapter(adapters, "a", tmp_path)
    assert "node 'a'" in str(caught.value)


def test_directories_that_hold_none(tiny_model: LoadedModel, tmp_path: Path) -> None:
    trained(tiny_model, tmp_path)
    adapters = make_adapters(tiny_model, targets=["q_proj", "v_proj"])

    def refused(said: str) -> None:
        with pytest.raises(UsageError, match=said):
            import_adapter(adapters, "a", tmp_path)

    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    good = config.read_text(), weights.read_bytes()
    config.unlink()
    refused(r"is not there: there is no .*adapter_config\.json")
    config.write_text(json.dumps(json.loads(good[0]) | {"peft_type": "IA3"}))
    refused("is no LoRA adapter")
    config.write_text("{")
    refused(r"adapter_config\.json cannot be read")
    config.write_text(good[0])
    weights.write_bytes(b"rubbish")
    refused(r"adapter_model\.safetensors cannot be read")
    weights.unlink()
    refused(r"has no adapter_model\.safetensors: weights are read as safetensors alone")
    weights.write_bytes(good[1])
    tensors = load_file(weights)
    key = next(iter(tensors))
    save_file(tensors | {key: torch.full_like(tensors[key], float("nan"))}, weights)
    refused("holds values that are not numbers")
    save_file(tensors | {key: torch.zeros(2, 3)}, weights)
    refused(r"does not fit this model: .* has the shape \[2, 3\]")
