"""A model that is split over devices computes what it does on one, and mixes no tensors of two.

The devices do not exist (see ``support.pretend_devices``), so this needs no GPU, and says nothing
of CUDA's streams and copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine import limits, proof_cache
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.padded import PaddedCache
from flowtune_cli.engine.paths import LEARNING, Paths
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.proof import prove
from flowtune_cli.engine.rows import TokenizedRequest
from flowtune_cli.engine.scoring import score
from flowtune_cli.engine.structure import structural_copy
from flowtune_cli.flow.request import Decoding
from flowtune_cli.learning.gradient_sum import GradientSum
from flowtune_cli.learning.peers import Alone
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.split import split_devices
from flowtune_cli.testing.tiny_model import randomize
from support.device import DEVICE
from support.pretend_devices import FIRST, SECOND, pretending, split
from support.tiny import make_model, text

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="what is pretended lies on the processor")

SETTINGS = AdapterSettings(rank=4, targets=["q_proj", "v_proj"])
SHARED = text(40, 9)
COMPLETIONS = [
    Completion(
        (*SHARED, *text(5 + number, number)), 30 * (number % 2), text(1 + number, 20 + number)
    )
    for number in range(5)
]
WAYS = [Paths("padded", "packed"), Paths("plain", "plain"), Paths("uncached", "plain")]


@pytest.fixture
def devices() -> Iterator[None]:
    with pretending():
        yield


def make_adapters(loaded: LoadedModel) -> Adapters:
    """With a head, which is on the processor whatever the model is on."""
    adapters = Adapters(loaded.model, {"a": {"bias": 1.0}}, SETTINGS, 0)
    randomize(adapters)
    return adapters


@pytest.fixture
def whole(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(make_model("Llama", tiny_model))


@pytest.fixture
def parted(tiny_model: LoadedModel, devices: None) -> Adapters:
    loaded = make_model("Llama", tiny_model)
    split(loaded.model, FIRST, SECOND)
    return make_adapters(loaded)


def test_adapters_are_where_their_layers_are(parted: Adapters, whole: Adapters) -> None:
    found = [parameter.device for parameter in parted.parameters("a")]
    assert found == [*[FIRST] * 4, *[SECOND] * 4, torch.device("cpu")]
    pairs = zip(parted.parameters("a"), whole.parameters("a"), strict=True)
    assert all(torch.equal(one.detach().cpu(), other.detach()) for one, other in pairs)
    assert parted.distance("a") == pytest.approx(whole.distance("a"))
    assert parted.is_finite("a")


@pytest.mark.parametrize("paths", WAYS, ids=lambda paths: paths.playing)
def test_scores_are_the_same(parted: Adapters, whole: Adapters, paths: Paths) -> None:
    for adapter in ("a", None):
        own = score(PrefixCache(whole, Limits()), adapter, COMPLETIONS, keep=True)
        got = score(PrefixCache(parted, Limits(), paths), adapter, COMPLETIONS, keep=True)
        assert got == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize("paths", WAYS, ids=lambda paths: paths.playing)
def test_outputs_are_the_same(parted: Adapters, whole: Adapters, paths: Paths) -> None:
    """Rows of unlike prompts, which end at unlike places: some leave before the others."""
    requests = [
        TokenizedRequest(
            c.prompt, 3 + 4 * n, (), Decoding(groups=2, samples=1), (n,), c.frozen_length
        )
        for n, c in enumerate(COMPLETIONS[:3])
    ]
    found = []
    for adapters, ways in ((whole, None), (parted, paths)):
        decoder = make_decoder(PrefixCache(adapters, Limits(), ways))
        outputs = decoder.decode("a", requests)
        found.append([[output.tokens for output in each] for each in outputs])
    assert found[0] == found[1]
    assert [len(each[0]) for each in found[0]] == [3, 7, 11]


def make_decoder(prefixes: PrefixCache) -> Any:
    from flowtune_cli.engine.comparison import _NoTexts
    from flowtune_cli.engine.decoding import Decoder

    return Decoder(prefixes, _NoTexts(), frozenset())  # type: ignore[arg-type]


def test_rows_that_join_others(parted: Adapters) -> None:
    prefixes = PrefixCache(parted, Limits())
    one, other = prefixes.prefill("a", [text(6, 0), text(9, 1)], keep=False)
    with torch.inference_mode(), parted.using("a") as model:
        cache, later = (PaddedCache(model, [prefix]) for prefix in (one, other))
        for each in (cache, later):
            each.forward(torch.tensor([[5]], device=FIRST))
        cache.join(later)
        states = cache.forward(torch.tensor([[6], [6]], device=FIRST))
        alone = later.forward(torch.tensor([[6]], device=FIRST))
    assert [layer.keys.device for layer in cache.layers] == [FIRST, SECOND]
    assert states.device == FIRST
    assert torch.allclose(states[1:].cpu(), alone.cpu(), atol=1e-4)


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_the_same(
    parted: Adapters, whole: Adapters, learning: Any, recompute: bool
) -> None:
    found = []
    for adapters in (whole, parted):
        prefixes = PrefixCache(adapters, Limits(), Paths("padded", learning))
        limit = 0.0 if recompute else math.inf
        values = likelihoods(prefixes, "a", COMPLETIONS, max_graph_tokens=limit)
        with adapters.using("a"):
            values.sum().backward()
        found.append([p.grad for p in adapters.weights("a")])
    for one, other, parameter in zip(*found, parted.weights("a"), strict=True):
        assert other.device == parameter.device
        assert torch.allclose(one, other.cpu(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_are_summed_over_devices(parted: Adapters, parts: int) -> None:
    parameters = parted.parameters("a")
    total = GradientSum(parameters, parts)
    for _ in range(parts):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter) / parts
        total.add()
    total.put([total.present], Alone())
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.device == parameter.device
        assert torch.equal(parameter.grad.cpu(), torch.ones(parameter.shape))
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5, norm_type=math.inf)
    assert float(norm) == 1.0
    assert all(float(p.grad.max()) == pytest.approx(0.5) for p in parameters if p.grad is not None)


def test_a_split_model_is_proved_to_run_padded(tiny_model: LoadedModel, devices: None) -> None:
    model = make_model("Llama", tiny_model).model
    assert Paths.by_config(model).playing == "cascade"
    split(model, FIRST, SECOND)
    found = prove(model, SETTINGS, 1024, [text(30, 1), text(26, 2)])
    assert found.paths == Paths("padded", "packed", devices=2)
    assert found.paths.text == "padded, learning packed, split over 2 devices"
    assert [line.partition(":")[0] for line in found.found] == [
        "what prompts share is copied for each of them"
    ]


def test_the_small_copy_is_on_one_device(tiny_model: LoadedModel, devices: None) -> None:
    """Its layers compute by themselves, not by the hooks of those that they were copied from."""
    model = split(make_model("Llama", tiny_model).model.bfloat16(), FIRST, SECOND)
    made = structural_copy(model, 1024)
    assert made is not None
    assert {parameter.device for parameter in made.parameters()} == {FIRST}
    assert not split_devices(made)
    assert not any(hasattr(module, "_hf_hook") for module in made.modules())
    logits = made(torch.tensor([[1, 2, 3]], device=FIRST)).logits
    assert (logits.device, logits.dtype) == (FIRST, torch.float32)


def test_a_proof_counts_for_the_same_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    model = SimpleNamespace(device=torch.device("cuda:0"))
    assert proof_cache._device(model) == "card 0"
    model.hf_device_map = {"one": "cuda:0", "two": "cuda:0", "three": "cuda:1"}
    assert proof_cache._device(model) == "card 0 and card 1"


def test_the_fullest_device_limits(
    monkeypatch: pytest.MonkeyPatch, tiny_model: LoadedModel
) -> None:
    model = make_model("Llama", tiny_model).model
    free = {"cuda:0": 8 * 2**30, "cuda:1": 2**30}
    monkeypatch.setattr(limits, "available_bytes", lambda device: free[str(device)])
    monkeypatch.setattr(type(model), "device", torch.device("cuda:0"))
    alone = Limits.for_model(model)
    model.hf_device_map = {"one": "cuda:0", "two": "cuda:1"}
    assert alone.prefix_cache_bytes == 8 * Limits.for_model(model).prefix_cache_bytes
