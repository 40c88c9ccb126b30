"""Which way a model is run, by what it computes: faults of each kind are found, and gone around."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import GenerationMixin, Phi3ForCausalLM

from flowtune_cli.config.settings import AdapterSettings, ModelSettings
from flowtune_cli.engine import cascade, likelihoods, padded, proof, proof_cache, scoring
from flowtune_cli.engine.adapter_mask import AdapterMask
from flowtune_cli.engine.comparison import one_line
from flowtune_cli.engine.paths import Paths
from flowtune_cli.engine.proof import Proved, prove, real_texts
from flowtune_cli.engine.proof_cache import proved
from flowtune_cli.engine.remembered import remembered
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.loading import LoadedModel, load_model
from flowtune_cli.registry import load_registry
from support.architectures import make_architecture
from support.tiny import make_model, text

SETTINGS = AdapterSettings(rank=4, targets=["q_proj", "v_proj"])
TEXTS = [text(30, 1), text(26, 2)]


def paths(model: Any, **more: Any) -> Paths:
    return prove(model, SETTINGS, 1024, TEXTS, **more).paths


def test_the_fastest_way_is_taken_where_it_agrees(tiny_model: LoadedModel) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.model.state_dict().items()}
    found = prove(tiny_model.model, SETTINGS, 1024, TEXTS)
    assert found == Proved(Paths("cascade", "packed"))
    after = tiny_model.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    modules = list(tiny_model.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_bfloat16_is_held_to_its_own_noise(tiny_model: LoadedModel) -> None:
    assert paths(tiny_model.model.bfloat16()) == Paths("cascade", "packed")


@pytest.mark.parametrize(("name", "layers"), [("mixtral", 2), ("mixtral", 6), ("qwen2_moe", 2)])
@pytest.mark.parametrize("seed", range(3))
def test_experts_that_rounding_chooses_are_no_fault(name: str, layers: int, seed: int) -> None:
    """Where a token goes to another expert, it differs by far more than rounding."""
    found = prove(make_experts(name, layers, seed), SETTINGS, 256)
    assert found == Proved(Paths("cascade", "packed"))


def make_experts(name: str, layers: int, seed: int) -> Any:
    """A mixture of experts in bfloat16 with weights of its own."""
    model = make_architecture(name, dtype=torch.bfloat16, num_hidden_layers=layers)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def test_faults_are_found_in_a_mixture_of_experts(tiny_model: LoadedModel) -> None:
    real = cascade.SharedPrefixes.attend
    with patch.object(cascade.SharedPrefixes, "attend", broken_prefixes(real)):
        found = prove(make_experts("mixtral", 2, 0), SETTINGS, 256)
    assert found.paths.playing == "padded"


def test_experts_that_were_not_compared_in_float32_are_held_to_all_they_compute() -> None:
    """Nothing but the structure's proof allows some tokens to differ."""
    real = scoring._later_tokens

    def off_once(*arguments: Any) -> Any:
        values = real(*arguments)
        values[0] += 40.0
        return values

    model = make_experts("mixtral", 2, 0)
    with (
        patch.object(proof, "structural_copy", return_value=None),
        patch.object(scoring, "_later_tokens", off_once),
    ):
        found = prove(model, SETTINGS, 256)
    assert found.paths.playing == "plain"
    assert "(cascade: a score is off by" in found.found[0]


def test_a_whole_model_is_read_in_few_passes(tiny_model: LoadedModel) -> None:
    """What a proof costs on a large model."""
    passes = []
    tiny_model.model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    with patch.object(proof, "structural_copy", lambda *_: make_model("Llama", tiny_model).model):
        prove(tiny_model.model, SETTINGS, 1024, TEXTS)
    assert len(passes) <= 32


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_default_model_is_run_by_the_fastest_way(dtype: Any) -> None:
    loaded = load_model(ModelSettings(device="cpu", dtype=dtype), load_registry())
    texts = real_texts(lambda text: loaded.tokenizer(text)["input_ids"])
    found = prove(loaded.model, AdapterSettings(), loaded.context, list(texts))
    assert found == Proved(Paths("cascade", "packed"))


def broken_prefixes(real: Any) -> Any:
    """Cascade attention that is off by a little wherever something is shared."""

    def attend(self: Any, layer: int, query: Any, scale: float) -> Any:
        output, lse = real(self, layer, query, scale)
        return output * 1.02, lse

    return attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_is_off_by_two_percent_is_not_taken(
    tiny_model: LoadedModel, dtype: torch.dtype
) -> None:
    real = cascade.SharedPrefixes.attend
    with patch.object(cascade.SharedPrefixes, "attend", broken_prefixes(real)):
        found = prove(tiny_model.model.to(dtype), SETTINGS, 1024, TEXTS)
    assert found.paths.playing == "padded"
    assert found.found[0].startswith(
        "what prompts share is copied for each of them: to read it in place is not right for this"
        " model (cascade: "
    )


def test_a_layer_that_drops_the_cache_is_found(tiny_model: LoadedModel) -> None:
    real = cascade._attention

    def drops(*arguments: Any, **more: Any) -> Any:
        return real(*arguments, **{**more, "cascade": None})

    with patch.object(cascade, "_attention", drops):
        found = prove(tiny_model.model, SETTINGS, 1024, TEXTS)
    assert found.paths.playing == "padded"
    assert "was replaced in 0 of 1 layers" in found.found[0]


def test_gradients_that_are_off_are_not_learned_from(tiny_model: LoadedModel) -> None:
    real = likelihoods.tree_mask

    def no_branches(*arguments: Any) -> Any:
        tree = real(*arguments)
        if tree:
            columns = tree["attention_mask"].shape[-1]
            causal = torch.full((columns, columns), torch.finfo(torch.float32).min).triu(1)
            tree["attention_mask"] = causal.expand_as(tree["attention_mask"]).clone()
        return tree

    with patch.object(likelihoods, "tree_mask", no_branches):
        found = prove(tiny_model.model, SETTINGS, 1024, TEXTS)
    assert found.paths == Paths("cascade", "plain")
    assert "learning packed: the gradient is off by" in found.found[0]


def test_positions_that_are_off_are_found(tiny_model: LoadedModel) -> None:
    real = padded.PaddedCache.__init__

    def shifted(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        self.positions = self.positions.clamp(max=3)

    model = make_model("Mistral", tiny_model).model
    with patch.object(padded.PaddedCache, "__init__", shifted):
        found = prove(model, SETTINGS, 1024, TEXTS)
    assert (found.paths.playing, found.paths.learning) == ("plain", "plain")


def test_frozen_prefixes_that_an_adapter_reads_are_found() -> None:
    model = make_architecture("mamba")
    settings = AdapterSettings(rank=4, targets=["in_proj"])
    assert prove(model, settings, 128).paths == Paths("plain", "plain")
    with patch.object(AdapterMask, "_hide", lambda *_: None):
        found = prove(model, settings, 128)
    assert not found.paths.frozen_prefixes
    assert found.found[-1].startswith("a prompt with a frozen prefix is an error: it is not right")
    assert "(a frozen prefix is off by" in found.found[-1]


def test_a_window_as_wide_as_the_context_takes_the_fast_way() -> None:
    model = make_architecture("mistral")
    assert paths(model).playing == "padded"
    assert paths(make_architecture("mistral-wide")).playing == "cascade"


def test_rotary_embeddings_that_switch_are_split_where_they_do() -> None:
    targets = AdapterSettings(rank=4, targets=["qkv_proj"])
    found = prove(make_architecture("phi3-longrope"), targets, 256).paths
    # What the model's own cache is worth beyond it depends on transformers.
    found = replace(found, cached_beyond=True)
    assert found == Paths("cascade", "packed", longest=32)
    assert found.text == "cascade, learning packed, plain beyond 32 tokens"
    assert found.shares(32)
    assert not found.shares(33)
    assert not found.packs(33)


def test_a_cache_that_is_wrong_beyond_the_switch_is_left_out_there_alone() -> None:
    targets = AdapterSettings(rank=4, targets=["qkv_proj"])
    # Keeps the keys of the other factors, as several versions of transformers do in some way.
    keeps = GenerationMixin.prepare_inputs_for_generation
    with patch.object(Phi3ForCausalLM, "prepare_inputs_for_generation", keeps):
        proof = prove(make_architecture("phi3-longrope"), targets, 256)
    assert proof.paths == Paths("cascade", "packed", longest=32, cached_beyond=False)
    assert proof.paths.caches(32)
    assert not proof.paths.caches(33)
    assert proof.paths.text == "cascade, learning packed, uncached beyond 32 tokens"
    assert proof.found[0].startswith("beyond 33 tokens each token is written by reading all before")
    assert "(cascade, plain beyond 33 tokens: decoding is off by" in proof.found[0]


def test_a_model_whose_tokens_see_those_behind_them_is_refused() -> None:
    settings = AdapterSettings(rank=4, targets=["query", "value"])
    with pytest.raises(UsageError, match="cannot be played"):
        prove(make_architecture("bert"), settings, 256)


def test_logits_that_are_not_finite_name_the_dtype(tiny_model: LoadedModel) -> None:
    model = tiny_model.model.half()
    with torch.no_grad():
        model.model.norm.weight.fill_(60_000.0)
        model.get_output_embeddings().weight.fill_(60_000.0)
    with pytest.raises(UsageError, match=r"not finite in float16 .*: set model\.dtype"):
        prove(model, SETTINGS, 1024)


def test_a_short_context_is_enough(tiny_model: LoadedModel) -> None:
    assert prove(tiny_model.model, SETTINGS, 16).paths.playing == "cascade"


class Counted:
    """Counts proofs."""

    def __init__(self) -> None:
        self.proofs = 0

    def __call__(self, *arguments: Any) -> Proved:
        self.proofs += 1
        return Proved(
            Paths("padded"), ("what prompts share is copied (a score is off by 13 nats)",)
        )


@pytest.fixture
def counted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    monkeypatch.setenv("FLOWTUNE_CACHE", str(tmp_path))
    counted = Counted()
    with patch.object(proof_cache, "prove", counted):
        yield counted


def test_a_model_is_proved_once(
    tiny_model: LoadedModel, counted: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model.model
    first = proved(model, "tiny", SETTINGS, 1024)
    assert capsys.readouterr().err == (
        "tiny: what prompts share is copied (a score is off by 13 nats)\n"
    )
    assert proved(model, "tiny", SETTINGS, 1024) == first
    assert counted.proofs == 1
    assert capsys.readouterr().err == ""
    assert list(remembered().values()) == ["padded, learning plain"]


@pytest.mark.parametrize("change", ["weights", "dtype", "context", "targets"])
def test_what_changes_a_result_is_proved_again(
    tiny_model: LoadedModel, counted: Counted, change: str
) -> None:
    model: nn.Module = tiny_model.model
    proved(model, "tiny", SETTINGS, 1024)
    settings, context = SETTINGS, 1024
    if change == "weights":
        with torch.no_grad():
            next(iter(model.parameters())).view(-1)[3] += 1
    elif change == "dtype":
        model = model.bfloat16()
    elif change == "context":
        context = 512
    else:
        settings = SETTINGS.model_copy(update={"targets": ["o_proj"]})
    proved(model, "tiny", settings, context)
    assert counted.proofs == 2


def test_a_damaged_memory_costs_a_proof(tiny_model: LoadedModel, counted: Counted) -> None:
    proved(tiny_model.model, "tiny", SETTINGS, 1024)
    (file,) = proof_cache.proofs_directory().glob("*.json")
    file.write_text('{"model": "tiny", "paths": {"playing"')
    assert remembered() == {}
    proved(tiny_model.model, "tiny", SETTINGS, 1024)
    assert counted.proofs == 2
    assert len(remembered()) == 1


def test_an_operation_that_is_refused_names_the_setting() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        assert "engine.deterministic = false" in one_line(raised.value)
        assert "engine.deterministic" not in one_line(RuntimeError("size"))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_cache_that_cannot_be_written_costs_a_proof(
    tiny_model: LoadedModel, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLOWTUNE_CACHE", str(tmp_path / "file"))
    proved(tiny_model.model, "tiny", SETTINGS, 1024)
    proved(tiny_model.model, "tiny", SETTINGS, 1024)
    assert counted.proofs == 2
    assert remembered() == {}
