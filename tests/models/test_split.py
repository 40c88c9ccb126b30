"""Which part of a model goes to which device, and which GPUs a process takes for it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import dispatch_model
from torch import nn

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import loading, memory
from flowtune_cli.models.loading import LoadedModel, choose_devices, load_model
from flowtune_cli.models.memory import model_bytes
from flowtune_cli.models.split import balanced, bytes_by_device, device_map, split_devices
from flowtune_cli.registry import load_registry
from support.tiny import make_model

A, B, C = (torch.device("cuda", number) for number in range(3))
SIZES = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def skeleton(name: str, **config: Any) -> Any:
    """A model without weights."""
    chosen = getattr(transformers, f"{name}Config")(**config)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(chosen)


def llama(layers: int, **config: Any) -> Any:
    return skeleton("Llama", **SIZES, num_hidden_layers=layers, **config)


def test_whole_layers_go_to_the_devices_in_order() -> None:
    assert device_map(llama(4), [A, B]) == {
        "model.embed_tokens": "cuda:0",
        "model.rotary_emb": "cuda:0",
        "model.layers.0": "cuda:0",
        "model.layers.1": "cuda:0",
        "model.layers.2": "cuda:1",
        "model.layers.3": "cuda:1",
        "model.norm": "cuda:1",
        "lm_head": "cuda:1",
    }


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_output_layer_is_where_the_embeddings_are(tied: bool) -> None:
    model = llama(6, tie_word_embeddings=tied)
    found = device_map(model, [A, B, C])
    assert found["lm_head"] == ("cuda:0" if tied else "cuda:2")
    assert found["model.norm"] == "cuda:2"
    assert sum(bytes_by_device(model, found).values()) == model_bytes(model)


@pytest.mark.parametrize(
    ("model", "layers", "first", "last"),
    [
        (
            skeleton("GPT2", vocab_size=258, n_embd=64, n_layer=4, n_head=4, n_positions=64),
            "transformer.h",
            ("transformer.wte", "transformer.wpe", "transformer.drop", "lm_head"),
            ("transformer.ln_f",),
        ),
        (
            skeleton("Qwen3Moe", **SIZES, num_hidden_layers=4, num_experts=4, head_dim=16),
            "model.layers",
            ("model.embed_tokens", "model.rotary_emb"),
            ("model.norm", "lm_head"),
        ),
    ],
    ids=["gpt2", "qwen3_moe"],
)
def test_every_weight_of_other_architectures_has_a_place(
    model: Any, layers: str, first: tuple[str, ...], last: tuple[str, ...]
) -> None:
    found = device_map(model, [A, B])
    own = {name for name in found if name.startswith(layers)}
    assert own == {f"{layers}.{number}" for number in range(4)}
    assert {name for name, device in found.items() if device == "cuda:0"} - own == set(first)
    assert {name for name, device in found.items() if device == "cuda:1"} - own == set(last)
    assert {found[f"{layers}.0"], found[f"{layers}.3"]} == {"cuda:0", "cuda:1"}
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert all(any(name.startswith(f"{part}.") for part in found) for name in weights)


def test_the_embeddings_count_in_the_balance() -> None:
    """With a vocabulary that weighs as much as many layers, the first device has few of these."""
    found = device_map(llama(8, tie_word_embeddings=True, max_position_embeddings=64), [A, B])
    large = llama(8, tie_word_embeddings=True)
    large.model.embed_tokens.weight = nn.Parameter(torch.empty(4000, 64, device="meta"))
    large.lm_head.weight = large.model.embed_tokens.weight
    layers = [sum(d == "cuda:0" for d in m.values()) for m in (found, device_map(large, [A, B]))]
    assert layers[1] < layers[0]


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [9, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6], [0, 0, 5]])
@pytest.mark.parametrize("parts", [2, 3])
def test_the_largest_part_is_as_small_as_it_can_be(sizes: list[int], parts: int) -> None:
    counts = balanced(sizes, parts)
    assert sum(counts) == len(sizes)
    assert min(counts) > 0

    def largest(begins: tuple[int, ...]) -> int:
        ends = (*begins, len(sizes))
        return max(sum(sizes[a:b]) for a, b in zip((0, *begins), ends, strict=True))

    begins = tuple(sum(counts[:number]) for number in range(1, parts))
    best = min(map(largest, combinations(range(1, len(sizes)), parts - 1)))
    assert largest(begins) == best


def test_models_that_cannot_be_split() -> None:
    with pytest.raises(UsageError, match=r"model\.devices is 3, and this model has 2 layers"):
        device_map(llama(2), [A, B, C])
    model = llama(4)
    model.model.extra = nn.Parameter(torch.empty(3, device="meta"))
    with pytest.raises(UsageError, match=r"weights outside its layers \(model\.extra\)"):
        device_map(model, [A, B])
    model = llama(4)
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(UsageError, match="no single row of layers"):
        device_map(model, [A, B])


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets torch see so many GPUs."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return see


def test_a_process_takes_the_first_gpus(gpus: Any) -> None:
    gpus(4)
    assert choose_devices(ModelSettings(devices=3)) == (A, B, C)
    assert choose_devices(ModelSettings(devices=2, device="cuda")) == (A, B)
    assert choose_devices(ModelSettings()) == (torch.device("cuda"),)


def test_ranks_take_gpus_side_by_side(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_devices(ModelSettings(devices=2)) == (C, torch.device("cuda:3"))
    assert choose_devices(ModelSettings()) == (B,)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UsageError,
        match=r"LOCAL_RANK 2, so .* the GPUs 4 to 5, but torch .* sees 4 GPUs here: of such"
        r" processes 2 fit on this machine",
    ):
        choose_devices(ModelSettings(devices=2))
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(UsageError, match="LOCAL_RANK is 'x', which is no number"):
        choose_devices(ModelSettings(devices=2))


@pytest.mark.parametrize(("there", "said"), [(0, "no GPUs"), (1, "1 GPU"), (3, "3 GPUs")])
def test_more_gpus_than_there_are(gpus: Any, there: int, said: str) -> None:
    gpus(there)
    with pytest.raises(UsageError, match=rf"model\.devices is 4, but torch .* sees {said} here"):
        choose_devices(ModelSettings(devices=4))


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:1"])
def test_a_device_that_contradicts(gpus: Any, device: str) -> None:
    gpus(4)
    with pytest.raises(UsageError, match=f"devices is 2, and model.device is '{device}'"):
        choose_devices(ModelSettings(devices=2, device=device))


def test_a_device_that_is_too_small_for_its_layers(
    gpus: Any, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before any weight is read, by what each device has free."""
    gpus(3)
    free = {A: 10**9, B: 1000}
    monkeypatch.setattr(memory, "available_bytes", free.__getitem__)
    monkeypatch.setattr(loading, "_load", lambda *_: pytest.fail("loaded all the same"))
    settings = ModelSettings(name=str(tiny_model_dir), devices=2, dtype="float32")
    with pytest.raises(UsageError, match=r"on cuda:1, where .* model\.devices = 3\."):
        load_model(settings, load_registry())


def test_a_model_is_loaded_by_its_device_map(
    gpus: Any, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    asked: list[dict[str, Any]] = []

    def ask(*_: Any, **options: Any) -> None:
        asked.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", ask)
    settings = ModelSettings(name=str(tiny_model_dir), devices=2, dtype="float32")
    with pytest.raises(UsageError, match="enough"):
        load_model(settings, load_registry())
    (options,) = asked
    assert options["device_map"]["model.layers.0"] == "cuda:0"
    assert options["device_map"]["model.layers.1"] == "cuda:1"


def test_a_model_whose_layers_are_not_known(
    gpus: Any, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    monkeypatch.setattr(loading, "build_skeleton", lambda *_: None)
    monkeypatch.setattr(loading, "_load", lambda *_: pytest.fail("loaded all the same"))
    settings = ModelSettings(name=str(tiny_model_dir), devices=2, dtype="float32")
    with pytest.raises(UsageError, match=r"cannot be split: its layers are not known before"):
        load_model(settings, load_registry())


def test_weights_are_read_by_a_device_map(
    tiny_settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers, part by part, here onto one device."""
    whole = load_model(tiny_settings, load_registry()).model
    cpu = torch.device("cpu")
    monkeypatch.setattr(loading, "choose_devices", lambda settings: (cpu, cpu))
    parts = load_model(tiny_settings, load_registry()).model
    assert not split_devices(parts)
    state = whole.state_dict()
    assert all(torch.equal(state[name], x) for name, x in parts.state_dict().items())


def test_hooks_on_one_device_change_nothing(tiny_model: LoadedModel) -> None:
    whole, hooked = (make_model("Llama", tiny_model).model for _ in range(2))
    where = dict.fromkeys(device_map(hooked, [A, B]), str(tiny_model.device))
    skipped = hooked._skip_keys_device_placement
    dispatch_model(hooked, where, force_hooks=True, skip_keys=skipped)
    assert hasattr(hooked.model.layers[1], "_hf_hook")
    ids = torch.tensor([[1, 2, 3, 4]], device=tiny_model.device)
    assert torch.equal(hooked(ids).logits, whole(ids).logits)
