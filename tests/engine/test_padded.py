"""Rows with copies of their prefixes; the rest is tested where they are used."""

from __future__ import annotations

import torch

from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.padded import PaddedCache
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import make_adapters, text


def test_prefixes_are_padded_on_the_left_and_repeated_as_wanted(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    prompts = [text(4, 0), text(9, 2)]
    first, second = PrefixCache(adapters, Limits()).prefill("a", prompts, keep=False)
    cache = PaddedCache(adapters.model, [second, first, second, None])
    assert cache.mask.tolist() == [[1] * 9, [0] * 5 + [1] * 4, [1] * 9, [0] * 9]
    assert cache.positions.tolist() == [[9], [4], [9], [0]]
    keys = cache.layers[1].keys
    assert keys.shape == (4, 2, 9, 16)
    assert torch.equal(keys[0], second.keys_values(1)[0, 0])
    assert torch.equal(keys[2], second.keys_values(1)[0, 0])
    assert torch.equal(keys[1, :, 5:], first.keys_values(1)[0, 0])
    assert not keys[1, :, :5].any()
    assert not keys[3].any()
    assert torch.equal(cache.keys_values(1, 5, 9)[1], first.keys_values(1)[:, 0])


def test_with_gradients_the_cache_stays_as_it_is(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    (prefix,) = PrefixCache(adapters, Limits()).prefill("a", [text(4, 0)], keep=False)
    ids = torch.tensor([text(3, 1)], device=DEVICE)
    with adapters.using("a") as model:
        cache = PaddedCache(model, [prefix])
        states = cache.forward(ids)
        assert [layer.keys.shape[2] for layer in cache.layers] == [4, 4]
        with torch.no_grad():
            cache = PaddedCache(model, [prefix])
            assert torch.equal(cache.forward(ids), states)
    assert [layer.keys.shape[2] for layer in cache.layers] == [7, 7]
