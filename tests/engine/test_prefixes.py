"""Prompts that were read: what they hold, which are remembered, and for how long."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.forward import check_layers, windowed, with_cache
from flowtune_cli.engine.prefix import Prefix, side_by_side
from flowtune_cli.engine.prefixes import Prefixes, common_beginning, common_beginnings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.loading import LoadedModel
from support.tiny import WINDOW, logits, make_adapters, make_model, text

LENGTHS = (4, 1, 9, 9, 17, 2)
PROMPTS = [text(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


def make_prefixes(adapters: Adapters, cache_bytes: int = 10**9, tokens: int = 4096) -> Prefixes:
    return Prefixes(adapters, tokens, cache_bytes)


def whole(prefix: Prefix) -> torch.Tensor:
    """The keys and values of all tokens and both layers."""
    return torch.stack([prefix.keys_values(layer) for layer in range(2)])


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
            model(torch.tensor([ids]), **with_cache(model, cache))
        alone = torch.stack(
            [torch.stack([layer.keys, layer.values])[:, 0] for layer in cache.layers]
        )
        assert whole(prefix).shape == (2, 2, 2, len(ids), 16)
        assert torch.allclose(whole(prefix), alone, atol=1e-4)


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
        assert (prefix.own is not None) == keys_values
        if prefix.own is not None:
            (alone,) = make_prefixes(adapters).read("a", [ids], keep=False)
            assert torch.allclose(whole(prefix), whole(alone), atol=1e-4)


def test_the_common_beginning_leaves_each_prompt_a_token() -> None:
    assert common_beginning([]) == ()
    assert common_beginning([(1, 2, 3), (1, 2, 4, 5)]) == (1, 2)
    assert common_beginning([(1, 2, 3), (1, 2), (1, 2, 3, 4)]) == (1,)
    assert common_beginning([(1, 2, 3), (3, 1), (1, 2, 3)]) == ()


def test_common_beginnings_are_read_before_what_goes_on_from_them() -> None:
    one, two = text(70, 1), text(70, 2)
    assert common_beginnings([(*one, 1), (*one, 2), two]) == [[one]]
    inner = one + text(80, 3)
    waves = common_beginnings([(*inner, 1), (*inner, 2), (*one, 5), (*two, 1), (*two, 2, 3)])
    assert [sorted(wave) for wave in waves] == [sorted([one, two]), [inner]]
    # Three times 30 tokens are worth a pass of their own, once is not.
    assert common_beginnings([(*one[:30], i) for i in range(4)]) == [[one[:30]]]
    assert common_beginnings([(*one[:30], i) for i in range(2)]) == []
    assert common_beginnings([]) == common_beginnings([one]) == []
    assert common_beginnings([one[: i + 1] for i in range(70)])[0] != []


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_prompts_that_begin_alike_are_read_as_each_alone(
    tiny_model: LoadedModel, architecture: str, data: st.DataObject
) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    adapters = make_adapters(make_model(architecture, tiny_model))
    bytes_kept = rng.choice([0, 200_000, 10**9])
    prefixes = make_prefixes(adapters, bytes_kept, rng.choice([100, 4096]))
    prompts = [text(rng.randint(1, 90), seed) for seed in range(3)]
    for _ in range(3):
        prompts += [
            (first[: rng.randint(0, len(first))] + text(rng.randint(1, 40), rng.randrange(99)))
            for first in rng.choices(prompts, k=3)
        ]
        asked = rng.sample(prompts, k=min(len(prompts), 6))
        contexts = [rng.choice([0, rng.randint(0, len(ids))]) for ids in asked]
        read = prefixes.read("a", asked, keep=rng.random() < 0.7, contexts=contexts)
        for ids, context, prefix in zip(asked, contexts, read, strict=True):
            (alone,) = make_prefixes(adapters).read("a", [ids], keep=False, contexts=[context])
            assert prefix.length == len(ids)
            assert prefix.logits is not None
            assert torch.allclose(prefix.logits, alone.logits, atol=1e-4)
            assert torch.allclose(whole(prefix), whole(alone), atol=1e-4)
        assert prefixes._bytes == sum(prefix.bytes for prefix in prefixes._kept.values())
        assert prefixes._bytes <= bytes_kept
        held = [key for key, prefix in prefixes._kept.items() if prefix.own is not None]
        kept = [(space, ids) for space, mine in prefixes._sorted.items() for ids in mine]
        assert sorted(held, key=repr) == sorted(kept, key=repr)


def test_a_prompt_is_read_from_where_it_parts_from_the_one_before(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    read: list[int] = []
    decoder = adapters.model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    first = text(60, 1)
    prefixes.read("a", [first], keep=True)
    prefixes.read("a", [first[:50] + text(7, 2)], keep=True)
    prefixes.read("a", [first[:50]], keep=True)
    prefixes.read("a", [first[:50]], keep=True)
    assert read == [60, 7, 1]


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
    assert bare.own is None
    (whole,) = prefixes.read("a", [PROMPTS[0]], keep=True)
    assert whole.own is not None
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
    cache, mask = side_by_side(read, [1, 0, 1])
    assert mask.tolist() == [[1] * 9, [0] * 5 + [1] * 4, [1] * 9]
    keys = cache.layers[1].keys
    first, second = (whole(prefix) for prefix in read)
    assert keys.shape == (3, 2, 9, 16)
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


def test_contexts_that_will_be_needed_outlast_all_else(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    one, other = PROMPTS[4], PROMPTS[2]
    for adapter in ("a", "b"):
        lengths = [len(one) - 2, len(other) - 2]
        prefixes.read(adapter, [one, other], keep=True, contexts=lengths)
    prefixes.clear(keep={one[:-2]})
    assert [(space[0], ids) for space, ids in prefixes._kept] == [(None, one[:-2])]
    assert prefixes._bytes == sum(prefix.bytes for prefix in prefixes._kept.values())
    hits = prefixes.hits
    prefixes.read("a", [one], keep=True, contexts=[len(one) - 2])
    assert prefixes.hits == hits + 1
    prefixes.clear()
    assert (prefixes._kept, prefixes._sorted, prefixes._bytes) == ({}, {}, 0)
