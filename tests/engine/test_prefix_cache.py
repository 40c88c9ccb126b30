"""Prompts that were read: what they hold, which are remembered, and for how long."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.forward import with_cache
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix import Prefix
from flowtune_cli.engine.prefix_cache import PrefixCache, common_prefix, common_prefixes
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import WINDOW, logits, make_adapters, make_model, text

LENGTHS = (4, 1, 9, 9, 17, 2)
PROMPTS = [text(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


def make_prefixes(adapters: Adapters, cache_bytes: int = 10**9, tokens: int = 4096) -> PrefixCache:
    return PrefixCache(adapters, Limits(tokens, prefix_cache_bytes=cache_bytes))


def tokens_of_passes(adapters: Adapters) -> list[int]:
    """The tokens of each forward pass from now on."""
    tokens: list[int] = []
    adapters.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return tokens


def whole(prefix: Prefix) -> torch.Tensor:
    """The keys and values of all tokens and both layers."""
    return torch.stack([prefix.keys_values(layer)[:, 0] for layer in range(2)])


# What is read


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("tokens_per_batch", [1, 20, 4096])
def test_prompts_are_read_as_each_alone(
    adapters: Adapters, adapter: str | None, tokens_per_batch: int
) -> None:
    prompts = [*PROMPTS, PROMPTS[0]]
    read = make_prefixes(adapters, tokens=tokens_per_batch).prefill(adapter, prompts, keep=False)
    for ids, prefix in zip(prompts, read, strict=True):
        assert prefix.length == len(ids)
        assert torch.allclose(prefix.logits, logits(adapters, adapter, ids)[-1], atol=1e-4)
        cache = DynamicCache()
        with adapters.using(adapter) as model:
            model(torch.tensor([ids], device=DEVICE), **with_cache(model, cache))
        alone = torch.stack(
            [torch.stack([layer.keys, layer.values])[:, 0] for layer in cache.layers]
        )
        assert whole(prefix).shape == (2, 2, 2, len(ids), 16)
        assert torch.allclose(whole(prefix), alone, atol=1e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
@pytest.mark.parametrize("keys_values", [True, False])
def test_a_prefix_that_all_prompts_share_changes_nothing(
    tiny_model: LoadedModel, architecture: str, keys_values: bool
) -> None:
    adapters = make_adapters(make_model(architecture, tiny_model))
    beginning = text(3 * WINDOW, 50)
    prompts = [beginning + ids for ids in PROMPTS]
    read = make_prefixes(adapters).prefill("a", prompts, keep=False, keys_values=keys_values)
    for ids, prefix in zip(prompts, read, strict=True):
        assert torch.allclose(prefix.logits, logits(adapters, "a", ids)[-1], atol=1e-4)
        assert (prefix.own is not None) == keys_values
        if prefix.own is not None:
            (alone,) = make_prefixes(adapters).prefill("a", [ids], keep=False)
            assert torch.allclose(whole(prefix), whole(alone), atol=1e-4)


def test_the_common_prefix_leaves_each_prompt_a_token() -> None:
    assert common_prefix([]) == ()
    assert common_prefix([(1, 2, 3), (1, 2, 4, 5)]) == (1, 2)
    assert common_prefix([(1, 2, 3), (1, 2), (1, 2, 3, 4)]) == (1,)
    assert common_prefix([(1, 2, 3), (3, 1), (1, 2, 3)]) == ()


def test_common_prefixes_are_read_before_what_goes_on_from_them() -> None:
    one, two = text(70, 1), text(70, 2)
    assert common_prefixes([(*one, 1), (*one, 2), two]) == [[one]]
    inner = one + text(80, 3)
    levels = common_prefixes([(*inner, 1), (*inner, 2), (*one, 5), (*two, 1), (*two, 2, 3)])
    assert [sorted(level) for level in levels] == [sorted([one, two]), [inner]]
    # Three times 30 tokens are worth a pass of their own, once is not.
    assert common_prefixes([(*one[:30], i) for i in range(4)]) == [[one[:30]]]
    assert common_prefixes([(*one[:30], i) for i in range(2)]) == []
    assert common_prefixes([]) == common_prefixes([one]) == []
    assert common_prefixes([one[: i + 1] for i in range(70)])[0] != []


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
        lengths = [rng.choice([0, rng.randint(0, len(ids))]) for ids in asked]
        read = prefixes.prefill("a", asked, keep=rng.random() < 0.7, frozen_lengths=lengths)
        for ids, length, prefix in zip(asked, lengths, read, strict=True):
            fresh = make_prefixes(adapters)
            (alone,) = fresh.prefill("a", [ids], keep=False, frozen_lengths=[length])
            assert prefix.length == len(ids)
            assert prefix.logits is not None
            assert torch.allclose(prefix.logits, alone.logits, atol=1e-4)
            assert torch.allclose(whole(prefix), whole(alone), atol=1e-4)
        assert prefixes._bytes == sum(prefix.bytes for prefix in prefixes._entries.values())
        assert prefixes._bytes <= bytes_kept
        entries = [tuple(k) for k, prefix in prefixes._entries.items() if prefix.own is not None]
        in_order = [(name, ids) for name, prompts in prefixes._sorted.items() for ids in prompts]
        assert sorted(entries, key=repr) == sorted(in_order, key=repr)


def test_a_prompt_is_read_from_where_it_parts_from_the_one_before(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    read = tokens_of_passes(adapters)
    first = text(60, 1)
    prefixes.prefill("a", [first], keep=True)
    prefixes.prefill("a", [first[:50] + text(7, 2)], keep=True)
    prefixes.prefill("a", [first[:50]], keep=True)
    prefixes.prefill("a", [first[:50]], keep=True)
    assert read == [60, 7, 1]


# What is remembered


def test_what_is_kept_is_found_again_and_equal_prompts_count_once(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    read = tokens_of_passes(adapters)
    first = prefixes.prefill("a", [PROMPTS[0], PROMPTS[2], PROMPTS[0]], keep=True)
    assert read == [4 + 9]
    assert first[0] is first[2]
    again = prefixes.prefill("a", [PROMPTS[2], PROMPTS[4]], keep=False)
    assert again[0] is first[1]
    assert read[1:] == [17]
    # What was not to be kept was not; nor does another adapter have a part in it.
    prefixes.prefill("a", [PROMPTS[4]], keep=False)
    prefixes.prefill("b", [PROMPTS[0]], keep=False)
    prefixes.prefill(None, [PROMPTS[0]], keep=False)
    assert read[2:] == [17, 4, 4]
    prefixes.clear()
    prefixes.prefill("a", [PROMPTS[0]], keep=False)
    assert read[5:] == [4]


def test_an_update_of_the_adapter_makes_what_was_read_with_it_stale(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    (old,) = prefixes.prefill("a", [PROMPTS[0]], keep=True)
    prefixes.prefill("b", [PROMPTS[0]], keep=True)
    adapters.move("a", "b", 0.5)
    (new,) = prefixes.prefill("a", [PROMPTS[0]], keep=True)
    assert not torch.allclose(old.logits, new.logits, atol=1e-2)
    assert torch.allclose(new.logits, logits(adapters, "a", PROMPTS[0])[-1], atol=1e-4)
    read = tokens_of_passes(adapters)
    prefixes.prefill("b", [PROMPTS[0]], keep=True)
    assert read == []


def test_logits_alone_do_not_answer_for_keys_and_values(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    (bare,) = prefixes.prefill("a", [PROMPTS[0]], keep=True, keys_values=False)
    assert bare.own is None
    (whole,) = prefixes.prefill("a", [PROMPTS[0]], keep=True)
    assert whole.own is not None
    (found,) = prefixes.prefill("a", [PROMPTS[0]], keep=True, keys_values=False)
    assert found is whole
    assert prefixes._bytes == whole.bytes


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first(adapters: Adapters) -> None:
    # Of one token: 258 logits, and 2 layers of keys and values of 2 heads of 16, in float32.
    (one,) = make_prefixes(adapters).prefill("a", [(1,)], keep=False)
    assert one.bytes == 4 * (258 + 2 * 2 * 2 * 16)
    prefixes = make_prefixes(adapters, cache_bytes=2 * one.bytes)
    read = tokens_of_passes(adapters)
    for token in (1, 2, 1, 3):
        prefixes.prefill("a", [(token,)], keep=True)
        assert sum(prefix.bytes for prefix in prefixes._entries.values()) == prefixes._bytes
        assert prefixes._bytes <= 2 * one.bytes
    assert len(read) == 3
    # 2 had to go for 3, since 1 was used after it.
    prefixes.prefill("a", [(1,)], keep=True)
    prefixes.prefill("a", [(3,)], keep=True)
    assert len(read) == 3
    prefixes.prefill("a", [(2,)], keep=True)
    assert len(read) == 4


def test_what_is_larger_than_the_memory_is_read_and_not_kept(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters, cache_bytes=100)
    read = prefixes.prefill("a", PROMPTS, keep=True)
    assert [prefix.length for prefix in read] == list(LENGTHS)
    assert prefixes._bytes == len(prefixes._entries) == 0


def test_in_float32_bits_of_a_frozen_prefix_do_not_depend_on_what_else_is_read(
    adapters: Adapters,
) -> None:
    documents = [(*text(30, 0), *text(20 + 7 * seed, seed)) for seed in range(6)]
    together = make_prefixes(adapters).prefill_frozen([*documents, (), documents[0]])
    assert list(together) == documents
    for ids in documents:
        (alone,) = make_prefixes(adapters).prefill_frozen([ids]).values()
        assert alone.logits is not None
        assert together[ids].logits is not None
        assert torch.equal(alone.logits, together[ids].logits)
        assert torch.equal(whole(alone), whole(together[ids]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_says_whether_a_frozen_prefix_has_to_be_read(
    tiny_model: LoadedModel, dtype: torch.dtype
) -> None:
    loaded = make_model("Llama", tiny_model)
    loaded.model.to(dtype)
    prefixes = make_prefixes(make_adapters(loaded))
    prefixes.prefill_frozen(PROMPTS[2:4])
    assert [prefixes.remembers(ids) for ids in PROMPTS] == [False, False, True, True, False, False]
    prefixes.prefill("a", PROMPTS[4:5], keep=True)
    prefixes.clear(keep={PROMPTS[2]})
    assert [prefixes.remembers(ids) for ids in PROMPTS] == [ids == PROMPTS[2] for ids in PROMPTS]


def test_frozen_prefixes_that_will_be_needed_outlast_all_else(adapters: Adapters) -> None:
    prefixes = make_prefixes(adapters)
    one, other = PROMPTS[4], PROMPTS[2]
    for adapter in ("a", "b"):
        lengths = [len(one) - 2, len(other) - 2]
        prefixes.prefill(adapter, [one, other], keep=True, frozen_lengths=lengths)
    prefixes.clear(keep={one[:-2]})
    assert [(key.namespace.adapter, key.ids) for key in prefixes._entries] == [(None, one[:-2])]
    assert prefixes._bytes == sum(prefix.bytes for prefix in prefixes._entries.values())
    read = tokens_of_passes(adapters)
    prefixes.prefill("a", [one], keep=True, frozen_lengths=[len(one) - 2])
    assert read == [2]
    prefixes.clear()
    assert (prefixes._entries, prefixes._sorted, prefixes._bytes) == ({}, {}, 0)
