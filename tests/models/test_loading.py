"""A base model loads frozen and complete, as the settings ask, or is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import loading as models
from flowtune_cli.models import memory
from flowtune_cli.models.loading import choose_device, choose_dtype, load_model
from flowtune_cli.models.out_of_memory import OutOfMemory
from flowtune_cli.models.quiet import quiet
from flowtune_cli.models.skeleton import context_of, model_context_of
from flowtune_cli.registry import load_registry

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))


def load(directory: Path, **settings: object) -> models.LoadedModel:
    return load_model(ModelSettings(name=str(directory), device="cpu", **settings), load_registry())


def test_a_loaded_model_is_frozen_and_complete(
    tiny_settings: ModelSettings,
    tiny_model_dir: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loaded = load_model(tiny_settings, load_registry())
    assert capfd.readouterr() == ("", "")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.device, loaded.dtype, loaded.context) == (CPU, torch.float32, 1024)
    assert loaded.name == str(tiny_model_dir)
    stored = load_file(tiny_model_dir / "model.safetensors")
    state = loaded.model.state_dict()
    assert stored.keys() <= state.keys()
    assert all(torch.equal(state[name], weight) for name, weight in stored.items())
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Héllo\n 12"}]
    text = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    tokens = loaded.tokenizer(text).input_ids
    assert loaded.tokenizer.decode(tokens) == text
    assert tokens.count(loaded.tokenizer.eos_token_id) == 2
    logits = loaded.model(torch.tensor([tokens])).logits
    assert logits.shape == (1, len(tokens), 258)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("setting", "context"), [(0, 1024), (100, 100), (1024, 1024)])
def test_the_context_is_what_is_set(tiny_model_dir: Path, setting: int, context: int) -> None:
    loaded = load(tiny_model_dir, context=setting)
    assert (loaded.context, loaded.model_context) == (context, 1024)


def test_no_more_context_than_the_model_has(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.context is 5000, and .* reads 1024 tokens"):
        load(tiny_model_dir, context=5000)


@pytest.mark.parametrize("limit", [{}, {"max_position_embeddings": 0}])
def test_a_model_that_does_not_say_its_limit(limit: dict[str, int]) -> None:
    config = PretrainedConfig(**limit)
    assert model_context_of(config) is None
    assert context_of(config, ModelSettings(context=77)) == 77
    with pytest.raises(UsageError, match=r"does not say how long .*: set model\.context"):
        context_of(config, ModelSettings())


@pytest.mark.parametrize(
    ("setting", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_weights_have_the_dtype(tiny_model_dir: Path, setting: str, dtype: torch.dtype) -> None:
    loaded = load(tiny_model_dir, dtype=setting)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert loaded.dtype == dtype


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_auto_is_what_is_faster(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype) -> None:
    monkeypatch.setattr(models, "faster_dtype", lambda device: faster)
    assert choose_dtype(ModelSettings(), CPU) == faster
    assert choose_dtype(ModelSettings(dtype="float32"), CPU) == torch.float32
    assert choose_dtype(ModelSettings(quantization="nf4"), CPU) == torch.bfloat16


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(UsageError, match=r"model\.device is 'cuda', but torch .* sees no GPUs"):
        choose_device("cuda")
    with pytest.raises(UsageError, match=r"unknown device 'cudda'.*Did you mean 'cuda'"):
        choose_device("cudda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device("auto") == torch.device("cuda:0")
    for rank in ("1", "x"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(UsageError, match=f"LOCAL_RANK is '{rank}', and torch sees 1 GPU here"):
            choose_device("auto")
        assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match="sees 1 GPU here"):
        choose_device("cuda:1")


def test_a_model_larger_than_the_memory_is_not_loaded(
    tiny_settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 100_000)
    monkeypatch.setattr(models, "_load", lambda *_: pytest.fail("loaded all the same"))
    with pytest.raises(UsageError, match=r"need 0\.0 GB in float32 on cpu"):
        load_model(tiny_settings, load_registry())


def test_memory_that_runs_out_while_weights_are_read(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", run_out)
    with pytest.raises(OutOfMemory, match=r"ran out on cpu .*model\.quantization = 'none' now"):
        load(tiny_model_dir)


def test_weights_that_do_not_fill_the_model(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"1 tensors are missing .*layers\.1\.mlp\.up_proj"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "no_such_type"}, r"transformers cannot load .*no_such_type"),
        ({"model_type": "vit"}, r"of type 'vit'\) is no model that generates text"),
        ({"model_type": "t5"}, r"of type 't5'\) is no model .*encoder"),
        ({"model_type": "bert"}, r"of type 'bert'\) is no model .*see those that come after"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"are quantised \('gptq'\), which cannot be read here: .*GPTQ",
        ),
        (
            {"quantization_config": {"quant_method": "own"}},
            r"are quantised \('own'\), which cannot be read here: ",
        ),
        (
            {
                "model_type": "own",
                "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
            },
            r"Python code that comes with it.*model\.trust_remote_code = true",
        ),
    ],
)
def test_an_architecture_that_is_not_to_be_had(
    copy: Path, change: dict[str, object], message: str
) -> None:
    (copy / "model.safetensors").write_bytes(b"not looked at")
    config = json.loads((copy / "config.json").read_text())
    (copy / "own.py").write_text("raise SystemExit('this code is not to be run')")
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UsageError, match=message):
        load(copy)


def test_a_tokenizer_may_lack_a_chat_template_but_not_an_end(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    assert load(copy).tokenizer.chat_template is None
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="no end-of-text token"):
        load(copy)


def test_tokens_without_an_embedding_are_an_error_where_a_text_can_have_them(copy: Path) -> None:
    tokenizer = load(copy).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|pad|>"]})
    tokenizer.save_pretrained(copy)
    assert len(load(copy).tokenizer) == 259  # nothing writes it
    message = r"tokenizer of '.*copy' has 1 tokens, such as '<\|pad\|>', that are beyond the 258 of"
    with pytest.raises(UsageError, match=message):
        load(copy, special_tokens_in_text=True)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}<|pad|>")
    with pytest.raises(UsageError, match=message):
        load(copy)
    tokenizer.add_tokens(["word"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UsageError, match="such as 'word'"):
        load(copy)


def test_the_skeleton_is_checked_before_weights_are_read(copy: Path) -> None:
    def refuse(model: Any) -> None:
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        raise UsageError("not with these layers")

    (copy / "model.safetensors").write_bytes(b"not looked at")
    with pytest.raises(UsageError, match="not with these layers"):
        load_model(ModelSettings(name=str(copy), device="cpu"), load_registry(), refuse)


def test_what_was_quantised_before_is_not_quantised_again(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"quantised already \('fp8'\)"):
        load(copy, quantization="nf4")


def test_a_context_that_nobody_knows(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["max_position_embeddings"] = 0
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes(b"not looked at")
    with pytest.raises(UsageError, match=r"how long a text may be: set model\.context"):
        load(copy)


def test_gguf_is_not_quantised_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be quantised again"):
        load(tmp_path / "model.gguf", quantization="nf4")


def test_quiet_restores_what_it_silenced() -> None:
    logger = logging.getLogger("transformers.modeling_utils")
    transformers_logging.set_verbosity_warning()

    def talk() -> None:
        assert not logger.isEnabledFor(logging.WARNING)
        assert not transformers_logging.is_progress_bar_enabled()
        raise ValueError("raised inside")

    with pytest.raises(ValueError, match="raised inside"), quiet():
        talk()
    assert logger.isEnabledFor(logging.WARNING)
    assert transformers_logging.is_progress_bar_enabled()


def write_gguf(directory: Path, path: Path) -> None:
    """The tiny model as GGUF in float32; the format wants merges, so rare bytes make room."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "<|im_start|>", "<|im_end|>"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    # Two, as some versions of transformers read a list of one as its text.
    tokens[254:256] = ["!!", "??"]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * 2)
    writer.add_token_merges(["! !", "? ?"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    parts = {
        "embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "model.": "",
    }
    for name, weight in load_file(directory / "model.safetensors").items():
        for heads, part in ((4, "q_proj"), (2, "k_proj")):
            if part in name:  # The two halves of each head's rotary pairs stand in turns in GGUF.
                weight = weight.view(heads, 2, 8, 64).transpose(1, 2).reshape(heads * 16, 64)
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_same_weights_without_a_word_from_transformers(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tiny_model_dir, tmp_path / "tiny.gguf")
    capfd.readouterr()
    loaded = load(tmp_path / "tiny.gguf", dtype="float32")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "reading tiny.gguf: this takes a while at every start\n"
    assert loaded.context == 1024
    original = load(tiny_model_dir, dtype="float32").model.state_dict()
    state = loaded.model.state_dict()
    assert original.keys() == state.keys()
    assert all(torch.equal(original[name], weight) for name, weight in state.items())
    assert loaded.tokenizer("abc<|im_end|>").input_ids[-1] == 257


@pytest.mark.model
def test_the_default_model_knows_a_capital() -> None:
    loaded = load_model(ModelSettings(device="cpu", dtype="float32"), load_registry())
    assert loaded.context == 8192
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    tokens = loaded.tokenizer(prompt + "The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**tokens).logits[0, -1]
    assert loaded.tokenizer.decode(logits.argmax()) == " Paris"
    assert loaded.tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert loaded.tokenizer.eos_token == "<|im_end|>"


@pytest.mark.model
@pytest.mark.slow
def test_gradients_reach_an_adapter_on_4_bit_weights_after_inference() -> None:
    from peft import LoraConfig, get_peft_model

    loaded = load_model(ModelSettings(device="cpu", quantization="nf4"), load_registry())
    assert any(parameter.dtype == torch.uint8 for parameter in loaded.model.parameters())
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(loaded.model, config).eval()
    tokens = loaded.tokenizer("The capital of France is Paris.", return_tensors="pt")
    with torch.no_grad():
        model(**tokens)
    model(**tokens, labels=tokens["input_ids"]).loss.backward()
    adapters = [p for name, p in model.named_parameters() if "lora_" in name]
    assert len(adapters) == 120
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters)
