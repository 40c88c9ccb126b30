"""Layers that are computed again give the same gradients, and hold far less until then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.paths import Paths
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.recomputing import recomputing
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import ARCHITECTURES, make_adapters, make_model, text

COMPLETIONS = [
    Completion(text(60, 0), 0, text(6, 10)),
    Completion(text(60, 0), 0, text(4, 11)),
    Completion(text(30, 1), 20, text(5, 12)),
    Completion(text(30, 1), 20, text(3, 13)),
    Completion(text(25, 2), 10, text(4, 14)),
]


def learned(
    adapters: Adapters,
    completions: Sequence[Completion],
    max_graph_tokens: float,
    paths: Paths | None = None,
) -> tuple[list[float], list[torch.Tensor]]:
    """Likelihoods, and the gradients of a sum in which each counts differently."""
    prefixes = PrefixCache(adapters, Limits(), paths)
    found = likelihoods(prefixes, "a", completions, max_graph_tokens=max_graph_tokens)
    weights = torch.arange(1.0, len(completions) + 1, device=DEVICE)
    with adapters.using("a"):
        gradients = torch.autograd.grad((found * weights).sum(), adapters.parameters("a"))
    return found.tolist(), list(gradients)


def held(adapters: Adapters, max_graph_tokens: float) -> int:
    """Bytes that are held for gradients beside the model's weights."""
    weights = {
        tensor.untyped_storage().data_ptr() for tensor in adapters.model.state_dict().values()
    }
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    prefixes = PrefixCache(adapters, Limits())
    completions = [Completion(text(400, 3), 0, text(5, 15))]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        likelihoods(prefixes, "a", completions, max_graph_tokens=max_graph_tokens)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("architecture", [None, *ARCHITECTURES])
def test_gradients_are_the_same(tiny_model: LoadedModel, architecture: str | None) -> None:
    loaded = make_model(architecture, tiny_model) if architecture else tiny_model
    adapters = make_adapters(loaded)
    values, expected = learned(adapters, COMPLETIONS, max_graph_tokens=1e9)
    again, found = learned(adapters, COMPLETIONS, max_graph_tokens=0)
    assert again == pytest.approx(values, abs=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_gradients_after_frozen_prefixes_are_the_same_where_nothing_is_shared(
    tiny_model: LoadedModel,
) -> None:
    adapters = make_adapters(tiny_model)
    plain = Paths("plain", "plain")
    values, expected = learned(adapters, COMPLETIONS, max_graph_tokens=1e9)
    for limit in (1e9, 0):
        again, found = learned(adapters, COMPLETIONS, max_graph_tokens=limit, paths=plain)
        assert again == pytest.approx(values, abs=1e-4)
        for mine, theirs in zip(found, expected, strict=True):
            assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_what_is_long_holds_less(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    assert held(adapters, max_graph_tokens=404) > 5 * held(adapters, max_graph_tokens=403)


def test_nothing_is_computed_again_without_gradients(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    with torch.no_grad():
        values = likelihoods(PrefixCache(adapters, Limits()), "a", COMPLETIONS, max_graph_tokens=0)
    assert not values.requires_grad
    assert values.tolist() == pytest.approx(learned(adapters, COMPLETIONS, 1e9)[0], abs=1e-5)


def test_layers_are_as_they_were_afterwards(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    layers: list[Any] = list(adapters.model.get_decoder().layers)
    mine = layers[1].forward
    layers[1].forward = mine  # as a library does that wraps what a layer computes
    with recomputing(adapters):
        assert all(layer.forward is not mine and "forward" in vars(layer) for layer in layers)
    assert ["forward" in vars(layer) for layer in layers] == [n == 1 for n in range(len(layers))]
    assert layers[1].forward is mine
