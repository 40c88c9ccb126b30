"""What is told of a base model is what flowtune itself goes by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.digest import weights_digest
from flowtune_cli.models.facts import base_model, texts
from flowtune_cli.models.loading import LoadedModel, load_model
from flowtune_cli.registry import load_registry
from support.tiny import make_adapters, make_engine
from support.tokenizers import make_tokenizer


def changed(target: Path, source: Path, **config: Any) -> ModelSettings:
    shutil.copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return ModelSettings(name=str(target), device="cpu", dtype="float32")


def test_a_local_model(tiny_settings: ModelSettings, tiny_model_dir: Path) -> None:
    found = base_model(tiny_settings, load_registry())
    assert found == {
        "name": str(tiny_model_dir),
        "loaded_from": str(tiny_model_dir),
        "gguf_file": None,
        "revision": None,
        "commit": None,
        "sha256": weights_digest(tiny_model_dir),
        "dtype": "float32",
        "quantization": "none",
        "context": 1024,
        "cache_continues": True,
    }


def test_a_model_of_the_hub_on_this_machine(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--some--model"
    shutil.copytree(tiny_model_dir, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = base_model(ModelSettings(name="some/model", dtype="float32"), load_registry())
    assert (found["loaded_from"], found["commit"]) == ("some/model", commit)
    assert found["sha256"] == weights_digest(tiny_model_dir)


def test_weights_that_were_quantised_before(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = changed(
        tmp_path / "model", tiny_model_dir, quantization_config={"quant_method": "gptq", "bits": 4}
    )
    assert base_model(settings, load_registry())["quantization"] == "gptq"
    nf4 = settings.model_copy(update={"name": str(tiny_model_dir), "quantization": "nf4"})
    assert base_model(nf4, load_registry())["quantization"] == "nf4"


@pytest.mark.parametrize(
    ("kind", "more", "continues"),
    [
        ("llama", {}, True),
        ("mistral", {"sliding_window": 8}, True),
        ("gemma3_text", {}, True),
        ("jamba", {}, False),
        ("mamba2", {}, False),
        ("qwen3_next", {}, False),
        ("falcon_h1", {}, False),
        ("lfm2", {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, False),
    ],
)
def test_whether_a_cache_continues(
    tmp_path: Path, kind: str, more: dict[str, Any], continues: bool
) -> None:
    AutoConfig.for_model(kind, **more).save_pretrained(tmp_path)
    settings = ModelSettings(name=str(tmp_path), dtype="float32", context=64)
    assert base_model(settings, load_registry())["cache_continues"] is continues


@pytest.mark.parametrize("ends", [None, 65, [65, 257]])
def test_the_ends_are_the_engine_s(
    tmp_path: Path, tiny_model_dir: Path, tiny_model: LoadedModel, ends: Any
) -> None:
    settings = changed(tmp_path / "model", tiny_model_dir, eos_token_id=ends)
    generation = tmp_path / "model" / "generation_config.json"
    if ends == 65:
        generation.unlink()
    else:
        generation.write_text(json.dumps({"eos_token_id": ends}))
    facts, _ = texts(settings, load_registry())
    loaded = load_model(settings, load_registry())
    engine = make_engine(loaded, make_adapters(loaded))
    assert facts["tokens"]["end"] == sorted(engine.decoder.end)
    assert (65 in facts["tokens"]["end"]) == (ends is not None)


def test_tokens(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = changed(tmp_path / "model", tiny_model_dir)
    tokenizer = make_tokenizer("prepend", bos=True, eos=True)
    tokenizer.save_pretrained(settings.name)
    facts, template = texts(settings, load_registry())
    found = facts["tokens"]
    assert found["begin"] == [tokenizer.bos_token_id]  # an end behind a prompt would end it
    assert found["lead"] != ""
    assert {"<s>", "<|im_end|>"} <= set(found["control"])
    assert facts["chat_template"]["system"] is True
    assert template == tokenizer.chat_template


def test_without_a_tokenizer(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = changed(tmp_path / "model", tiny_model_dir)
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UsageError, match="the tokenizer of"):
        texts(settings, load_registry())
