"""The adapters of many nodes on one model: apart from each other, saved, loaded and moved."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import likelihood, logits, make_adapters, randomize, same, state, text

IDS = text(12)


def test_the_base_model_stays_what_it_was_to_the_bit(tiny_model: LoadedModel) -> None:
    before = copy.deepcopy(tiny_model.model)
    adapters = make_adapters(tiny_model)
    assert torch.equal(
        logits(adapters, None, IDS), before(torch.tensor([IDS], device=DEVICE)).logits[0]
    )
    assert not torch.equal(logits(adapters, None, IDS), logits(adapters, "a", IDS))
    assert not any(p.requires_grad for n, p in adapters.model.named_parameters() if "lora" not in n)


def test_new_adapters_change_nothing_yet(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model, randomized=False)
    assert torch.equal(logits(adapters, None, IDS), logits(adapters, "a", IDS))
    assert [adapters.version(name) for name in (None, "a", reference_of("a"))] == [0, 0, 0]
    assert same(state(adapters, "a"), state(adapters, reference_of("a")))
    assert adapters.distance("a") == 0


def test_every_adapter_is_one_of_its_own(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    names = ["a", "b", reference_of("a"), reference_of("b")]
    before = {name: logits(adapters, name, IDS) for name in names}
    weights = {name: state(adapters, name) for name in names}
    with torch.no_grad():
        for parameter in adapters.parameters("a"):
            parameter.add_(0.1)
    assert not torch.equal(logits(adapters, "a", IDS), before.pop("a"))
    for name, was in before.items():
        assert torch.equal(logits(adapters, name, IDS), was)
        assert same(state(adapters, name), weights[name])


def test_an_adapter_is_active_within_its_block_alone(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    base = logits(adapters, None, IDS)
    ids = torch.tensor([IDS], device=DEVICE)

    def use() -> None:
        with adapters.using("a") as model:
            assert not torch.equal(model(ids).logits[0], base)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        use()
    assert torch.equal(adapters.model(ids).logits[0], base)


def test_gradients_reach_the_active_adapter_alone(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    likelihood(adapters, "a", IDS[:6], IDS[6:]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters("a"))
    with torch.no_grad():
        for parameter in adapters.parameters("a"):
            parameter.grad = None
    likelihood(adapters, "b", IDS[:6], IDS[6:]).backward()
    assert all(parameter.grad is None for parameter in adapters.parameters("a"))
    for node in ("a", "b"):
        assert not any(p.requires_grad for p in adapters.parameters(reference_of(node)))


def test_initial_weights_depend_on_the_seed_and_the_name_alone(tiny_model: LoadedModel) -> None:
    other = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    torch.manual_seed(5)
    one = make_adapters(tiny_model, {"a": {}, "b": {}}, randomized=False)
    torch.manual_seed(6)
    two = make_adapters(other[0], {"c": {"x": 1.0}, "a": {}}, randomized=False)
    assert same(state(one, "a"), state(two, "a"))
    assert not same(state(one, "a"), state(one, "b"))
    assert not same(state(one, "a"), state(make_adapters(other[1], seed=1, randomized=False), "a"))


def test_rank_scaling_and_targets_are_those_asked_for(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model, {"a": {}}, rank=2, alpha=3.0, targets=["o_proj"])
    (down, up, *rest) = adapters.parameters("a")
    assert (len(rest), down.shape, up.shape) == (2, (2, 64), (64, 2))
    layer = adapters.model.model.layers[0].self_attn.o_proj
    x = torch.rand(1, 64, device=DEVICE)
    with adapters.using("a"):
        expected = layer.base_layer(x) + 3 / 2**0.5 * (x @ down.T @ up.T)
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_moving_is_a_mean_of_the_weights(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model, {"a": {"x": 2.0, "y": -1.0}})
    policy, reference = state(adapters, "a"), state(adapters, reference_of("a"))
    adapters.move(reference_of("a"), "a", 0.25)
    expected = [0.75 * r + 0.25 * p for r, p in zip(reference, policy, strict=True)]
    for moved, mean in zip(state(adapters, reference_of("a")), expected, strict=True):
        assert torch.allclose(moved, mean, atol=1e-7)
    assert same(state(adapters, "a"), policy)
    assert (adapters.version("a"), adapters.version(reference_of("a"))) == (0, 1)
    adapters.copy("a", reference_of("a"))
    assert same(state(adapters, "a"), state(adapters, reference_of("a")))


def test_heads_move_with_their_adapters(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model, {"a": {"x": 2.0, "y": -1.0}, "b": {}})
    assert adapters.head("a") == adapters.head(reference_of("a")) == {"x": 2.0, "y": -1.0}
    assert adapters.head("b") == adapters.head(None) == {}
    with torch.no_grad():
        adapters.heads["a"].load({"x": 4.0, "y": 3.0}, "here")
    adapters.move(reference_of("a"), "a", 0.5)
    assert adapters.head(reference_of("a")) == {"x": 3.0, "y": 1.0}


def test_the_distance_is_euclidean(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model, {"a": {"x": 2.0, "y": -1.0}}, randomized=False)
    with torch.no_grad():
        adapters.parameters("a")[0][0, :2] += torch.tensor([3.0, 4.0], device=DEVICE)
        adapters.heads["a"].weights[1] += 12
    assert adapters.distance("a") == pytest.approx(13)


# Saved and loaded

NAMES = ["a", "lora_A", "default", "weight", "adapter-x", "layers", "Näme ü 1", "0"]


def test_saving_and_loading_gives_the_same_to_the_bit(
    tiny_model: LoadedModel, tmp_path: Path
) -> None:
    fresh = copy.deepcopy(tiny_model)
    nodes = {name: {"x": 1.5, "y": -2.5} if name == "a" else {} for name in NAMES}
    adapters = make_adapters(tiny_model, nodes)
    adapters.versions["a"] = 7
    with torch.no_grad():
        adapters.heads["a"].load({"x": 0.1, "y": -3.3}, "here")
    adapters.save(tmp_path / "saved")
    again = make_adapters(fresh, nodes, seed=1)
    randomize(again, 9)
    again.load(tmp_path / "saved")
    for name in adapters.versions:
        assert same(state(adapters, name), state(again, name))
        assert torch.equal(logits(adapters, name, IDS), logits(again, name, IDS))
    assert again.versions == adapters.versions
    assert again.head("a") == adapters.head("a")
    assert again.head(reference_of("a")) == {"x": 1.5, "y": -2.5}


def test_peft_reads_what_was_saved(tiny_model: LoadedModel, tmp_path: Path) -> None:
    base = copy.deepcopy(tiny_model.model)
    adapters = make_adapters(tiny_model, {"a": {}, "b": {}}, targets=["q_proj", "down_proj"])
    adapters.save(tmp_path / "saved")
    for name in ("b", reference_of("b")):
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "saved" / name).eval()
        theirs = loaded(torch.tensor([IDS], device=DEVICE)).logits[0]
        assert torch.equal(theirs, logits(adapters, name, IDS))


def test_references_can_be_set_to_what_was_trained(tiny_model: LoadedModel, tmp_path: Path) -> None:
    adapters = make_adapters(tiny_model, {"a": {"x": 1.0, "y": 0.0}})
    with torch.no_grad():
        adapters.heads["a"].load({"x": 0.1, "y": -3.3}, "here")
    adapters.save(tmp_path / "saved")
    trained = state(adapters, "a")
    adapters.load(tmp_path / "saved", reset_references=True)
    assert same(state(adapters, "a"), trained)
    assert same(state(adapters, reference_of("a")), trained)


def test_an_adapter_that_is_not_there(tiny_model: LoadedModel, tmp_path: Path) -> None:
    fresh = copy.deepcopy(tiny_model)
    make_adapters(tiny_model, {"a": {}}).save(tmp_path / "saved")
    with pytest.raises(UsageError, match=r"saved has no adapter 'b' .*another task or other nodes"):
        make_adapters(fresh, {"a": {}, "b": {}}).load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, "does not fit: was it trained with another base model, rank or targets"),
        ({"targets": ["q_proj"]}, "has weights for layers that are not adapted here: .*v_proj"),
        ({"targets": ["q_proj", "v_proj", "o_proj"]}, "lacks weights for layers .*: .*o_proj"),
    ],
)
def test_an_adapter_of_another_shape(
    tiny_model: LoadedModel, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    fresh = copy.deepcopy(tiny_model)
    make_adapters(tiny_model).save(tmp_path / "saved")
    with pytest.raises(UsageError, match=message):
        make_adapters(fresh, **settings).load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        ({}, {"x": 1.0}, "saved/a holds a head with other parameters .*: nothing there, x here"),
        ({"x": 1.0, "y": 0.0}, {"x": 1.0}, "head with other parameters .*: x, y there, x here"),
        ({"x": 1.0}, {}, r"saved/a has a head \(x\), and its node has none now"),
    ],
)
def test_a_head_that_does_not_fit(
    tiny_model: LoadedModel,
    tmp_path: Path,
    saved: dict[str, float],
    now: dict[str, float],
    message: str,
) -> None:
    fresh = copy.deepcopy(tiny_model)
    make_adapters(tiny_model, {"a": saved}).save(tmp_path / "saved")
    with pytest.raises(UsageError, match=message):
        make_adapters(fresh, {"a": now}).load(tmp_path / "saved")


def test_a_head_is_stored_by_name(tiny_model: LoadedModel, tmp_path: Path) -> None:
    fresh = copy.deepcopy(tiny_model)
    make_adapters(tiny_model, {"a": {"x": 1.0, "y": 2.0}}).save(tmp_path / "saved")
    adapters = make_adapters(fresh, {"a": {"y": 0.0, "x": 0.0}})
    adapters.load(tmp_path / "saved")
    assert adapters.head("a") == {"x": 1.0, "y": 2.0}


def test_files_hold_weights_and_no_code(tiny_model: LoadedModel, tmp_path: Path) -> None:
    make_adapters(tiny_model, {"a": {"x": 1.0, "y": 0.5}}).save(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved" / "a").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "flowtune.json",
    }
    extra = json.loads((tmp_path / "saved" / "a" / "flowtune.json").read_text())
    assert extra == {"version": 0, "head": {"x": 1.0, "y": 0.5}}


def test_the_order_of_targets_in_a_file_is_fixed(tiny_model: LoadedModel, tmp_path: Path) -> None:
    targets = ["v_proj", "q_proj", "up_proj", "o_proj", "k_proj", "gate_proj", "down_proj"]
    make_adapters(tiny_model, {"a": {}}, targets=targets).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(targets)


def test_a_damaged_adapter_file(tiny_model: LoadedModel, tmp_path: Path) -> None:
    adapters = make_adapters(tiny_model, {"a": {}})
    adapters.save(tmp_path / "saved")
    file = tmp_path / "saved" / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"adapter in .*saved/a cannot be read"):
        adapters.load(tmp_path / "saved")
    save_file(load_file(tmp_path / "saved" / reference_of("a") / file.name), file)
    adapters.load(tmp_path / "saved")


@pytest.mark.parametrize("name", ["a", reference_of("a")])
def test_values_that_are_no_numbers_are_not_loaded(
    tiny_model: LoadedModel, tmp_path: Path, name: str
) -> None:
    adapters = make_adapters(tiny_model, {"a": {}})
    adapters.save(tmp_path / "saved")
    file = tmp_path / "saved" / name / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, file)
    with pytest.raises(UsageError, match=f"saved/{name} holds values that are not numbers"):
        adapters.load(tmp_path / "saved")


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "reference-of-a"])
def test_names_that_no_node_may_have(tiny_model: LoadedModel, name: str) -> None:
    with pytest.raises(UsageError, match="node name"):
        make_adapters(tiny_model, {"a": {}, name: ()})


def test_values_that_are_no_numbers_are_found(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    adapters.check_finite(["a", "b"])
    with torch.no_grad():
        adapters.parameters("b")[0][0, 0] = torch.nan
    adapters.check_finite(["a"])
    with pytest.raises(FlowtuneError, match="node 'b' is no longer finite"):
        adapters.check_finite(["a", "b"])


def test_a_task_may_have_nothing_that_learns(tiny_model: LoadedModel) -> None:
    before = tiny_model.model(torch.tensor([IDS], device=DEVICE)).logits[0]
    adapters = make_adapters(tiny_model, {})
    assert torch.equal(logits(adapters, None, IDS), before)
    assert adapters.nodes == ()
