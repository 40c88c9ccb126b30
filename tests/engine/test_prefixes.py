"""Prompts that were read: what they hold, which are remembered, and for how long."""

from __future__ import annotations

import pytest
import torch
from tiny import WINDOW, logits, make_adapters, make_model, text
from transformers import DynamicCache

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.models import LoadedModel
from flowtune_cli.engine.prefixes import (
    Prefixes,
    by_length,
    check_layers,
    common_beginning,
    side_by_side,
    windowed,
)
from flowtune_cli.flow.errors import UsageError

LENGTHS = (4, 1, 9, 9, 17, 2)
PROMPTS = [text(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


def make_prefixes(adapters: Adapters, cache_bytes: int = 10**9, tokens: int = 4096) -> Prefixes:
    return Prefixes(adapters, tokens, cache_bytes)


# What is read


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("tokens_per_batch", [1, 20, 4096])
def test_prompts_are_read_as_each_alone(
    adapters: Adapters, adapter: str | None, tokens_per_batch: int
) -> None:
    prompts = [*PROMPTS, PROMPTS[0]]
    read = make_prefixes(adapters, tokens=tokens_per_batch).read(adapter, prompts, keep=False)
    for ids, prefix in zip(prompts, read, strict=True):
        assert prefix.length == len(ids)
        assert torch.allclose(prefix.logits, logits(adapters, adapter, ids)[-1], atol=1e-4)
        cache = DynamicCache()
        with adapters.using(adapter) as model:
            model(torch.tensor([ids]), past_key_values=cache)
        alone = torch.stack(
            [torch.stack([layer.keys, layer.values])[:, 0] for layer in cache.layers]
        )
        assert prefix.keys_values is not None
        assert prefix.keys_values.shape == (2, 2, 2, len(ids), 16)
        assert torch.allclose(prefix.keys_values, alone, atol=1e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
@pytest.mark.parametrize("keys_values", [True, False])
def test_a_beginning_that_all_prompts_share_changes_nothing(
    tiny_model: LoadedModel, architecture: str, keys_values: bool
) -> None:
    adapters = make_adapters(make_model(architecture, tiny_model))
    beginning = text(3 * WINDOW, 50)
    prompts = [beginning + ids for ids in PROMPTS]
    read = make_prefixes(adapters).read("a", prompts, keep=False, keys_values=keys_values)
    for ids, prefix in zip(prompts, read, strict=True):
        assert torch.allclose(prefix.logits, logits(adapters, "a", ids)[-1], atol=1e-4)
        assert (prefix.keys_values is not None) == keys_values
        if prefix.keys_values is not None:
            (alone,) = make_prefixes(adapters).read("a", [ids], keep=False)
            assert alone.keys_values is not None
            assert torch.allclose(prefix.keys_values, alone.keys_values, atol=1e-4)


def test_the_common_beginning_leaves_each_prompt_a_token() -> None:
    assert common_beginning([]) == ()
    assert common_beginning([(1, 2, 3), (1, 2, 4, 5)]) == (1, 2)
    assert common_beginning([(1, 2, 3), (1, 2), (1, 2, 3, 4)]) == (1,)
    assert common_beginning([(1, 2, 3), (3, 1), (1, 2, 3)]) == ()


def test_batches_hold_prompts_of_like_lengths_within_a_budget() -> None:
    batches = by_length([text(length) for length in (5, 40, 1, 5, 6, 9)], 20)
    assert [[len(row) for row in batch] for batch in batches] == [[40], [9, 6], [5, 5, 1]]


# What is remembered


def test_what_is_kept_is_found_again_and_equal_prompts_count_once(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    first = prefixes.read("a", [PROMPTS[0], PROMPTS[2], PROMPTS[0]], keep=True)
    assert (prefixes.hits, prefixes.misses) == (0, 2)
    assert first[0] is first[2]
    again = prefixes.read("a", [PROMPTS[2], PROMPTS[4]], keep=False)
    assert again[0] is first[1]
    assert (prefixes.hits, prefixes.misses) == (1, 3)
    # What was not to be kept was not; nor does another adapter have a part in it.
    prefixes.read("a", [PROMPTS[4]], keep=False)
    prefixes.read("b", [PROMPTS[0]], keep=False)
    prefixes.read(None, [PROMPTS[0]], keep=False)
    assert (prefixes.hits, prefixes.misses) == (1, 6)
    prefixes.clear()
    prefixes.read("a", [PROMPTS[0]], keep=False)
    assert (prefixes.hits, prefixes.misses) == (1, 7)


def test_an_update_of_the_adapter_makes_what_was_read_with_it_stale(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    (old,) = prefixes.read("a", [PROMPTS[0]], keep=True)
    prefixes.read("b", [PROMPTS[0]], keep=True)
    adapters.move("a", "b", 0.5)
    (new,) = prefixes.read("a", [PROMPTS[0]], keep=True)
    assert not torch.allclose(old.logits, new.logits, atol=1e-2)
    assert torch.allclose(new.logits, logits(adapters, "a", PROMPTS[0])[-1], atol=1e-4)
    assert prefixes.hits == 0
    prefixes.read("b", [PROMPTS[0]], keep=True)
    assert prefixes.hits == 1


def test_logits_alone_do_not_answer_for_keys_and_values(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    (bare,) = prefixes.read("a", [PROMPTS[0]], keep=True, keys_values=False)
    assert bare.keys_values is None
    (whole,) = prefixes.read("a", [PROMPTS[0]], keep=True)
    assert whole.keys_values is not None
    assert prefixes.hits == 0
    (found,) = prefixes.read("a", [PROMPTS[0]], keep=True, keys_values=False)
    assert found is whole
    assert prefixes._bytes == whole.bytes


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first(adapters: Adapters) -> None:
    # Of one token: 258 logits, and 2 layers of keys and values of 2 heads of 16, in float32.
    (one,) = make_prefixes(adapters).read("a", [(1,)], keep=False)
    assert one.bytes == 4 * (258 + 2 * 2 * 2 * 16)
    prefixes = make_prefixes(adapters, cache_bytes=2 * one.bytes)
    for token in (1, 2, 1, 3):
        prefixes.read("a", [(token,)], keep=True)
        assert sum(prefix.bytes for prefix in prefixes._kept.values()) == prefixes._bytes
        assert prefixes._bytes <= 2 * one.bytes
    assert prefixes.hits == 1
    # 2 had to go for 3, since 1 was used after it.
    prefixes.read("a", [(1,)], keep=True)
    prefixes.read("a", [(3,)], keep=True)
    assert prefixes.hits == 3
    prefixes.read("a", [(2,)], keep=True)
    assert prefixes.hits == 3


def test_what_is_larger_than_the_memory_is_read_and_not_kept(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters, cache_bytes=100)
    read = prefixes.read("a", PROMPTS, keep=True)
    assert [prefix.length for prefix in read] == list(LENGTHS)
    assert prefixes._bytes == len(prefixes._kept) == 0


# Laid side by side


def test_prefixes_are_padded_on_the_left_and_repeated_as_wanted(adapters: Adapters) -> None:
    read = make_prefixes(adapters).read("a", [PROMPTS[0], PROMPTS[2]], keep=False)
    cache, mask = side_by_side(read, [1, 0, 1], 3)
    assert mask.tolist() == [[1] * 12, [0] * 5 + [1] * 7, [1] * 12]
    keys = cache.layers[1].keys
    first, second = (prefix.keys_values for prefix in read)
    assert keys.shape == (3, 2, 9, 16)
    assert first is not None
    assert second is not None
    assert torch.equal(keys[0], second[1, 0])
    assert torch.equal(keys[2], second[1, 0])
    assert torch.equal(keys[1, :, 5:], first[1, 0])
    assert not keys[1, :, :5].any()


# Which models


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("Llama", False), ("Mistral", True), ("Gemma2", True), ("Qwen3", False)],
)
def test_windows_are_known(tiny_model: LoadedModel, architecture: str, expected: bool) -> None:
    assert windowed(make_model(architecture, tiny_model).model.config) == expected


def test_layers_that_keep_something_else_are_refused(tiny_model: LoadedModel) -> None:
    config = make_model("Qwen3", tiny_model).model.config
    check_layers(config)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UsageError, match=r"cannot go on from: \['linear_attention'\]"):
        check_layers(config)
