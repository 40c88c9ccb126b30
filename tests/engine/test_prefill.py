"""Suffixes that are read together give what each gives when it is read alone."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from flowtune_cli.engine import attention_kernels, like_sizes, shared_prefixes
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.cascade import replace_attention
from flowtune_cli.engine.forward import hidden_states
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefill import Prefilled, Suffix, prefill, prefill_batches
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import make_adapters, make_model, text

ARCHITECTURES = ("Llama", "Qwen3", "Gemma2", "Mistral")
"""The latter two are padded: soft caps, windows."""


@pytest.fixture(params=ARCHITECTURES)
def adapters(tiny_model: LoadedModel, request: pytest.FixtureRequest) -> Adapters:
    return make_adapters(make_model(request.param, tiny_model))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("together", [True, False])
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_each_suffix_is_read_as_if_alone(
    adapters: Adapters, fused: bool, together: bool, data: st.DataObject
) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    beginnings = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=7))
    budget = data.draw(st.sampled_from([1, 40, 10_000]))
    prefixes = PrefixCache(adapters, Limits(prefix_cache_bytes=0))
    prompts = [text(length, rng.randrange(10**6)) for length in beginnings]
    # The last is chained: its beginning is that of another one.
    prompts.append(prompts[0] + text(20, rng.randrange(10**6)))
    computed = prefixes.prefill("a", prompts, keep=False)
    owners = [rng.choice([*range(len(prompts)), None]) for _ in lengths]
    suffixes = [
        Suffix(text(length, rng.randrange(10**6)), None if owner is None else computed[owner])
        for length, owner in zip(lengths, owners, strict=True)
    ]
    batches = prefill_batches(adapters.model, suffixes, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(suffixes)))
    kernel = attention_kernels.choose if fused else lambda *_, **__: "blocks"
    with (
        patch.object(attention_kernels, "choose", kernel),
        patch.object(like_sizes, "launches_are_dear", lambda device: together),
    ):
        for batch in batches:
            assert len({suffixes[i].prefix is None for i in batch}) == 1
            with adapters.using("a") as model:
                found = prefill(model, [suffixes[i] for i in batch], keep=True)
            for row, i in enumerate(batch):
                owner = owners[i]
                prompt = () if owner is None else prompts[owner]
                check(adapters, prompt, suffixes[i].tokens, found, row)


def check(
    adapters: Adapters,
    prompt: tuple[int, ...],
    tokens: tuple[int, ...],
    found: Prefilled,
    row: int,
) -> None:
    cache = DynamicCache()
    with torch.inference_mode(), adapters.using("a") as model:
        alone = hidden_states(model, torch.tensor([[*prompt, *tokens]], device=DEVICE), cache=cache)
    torch.testing.assert_close(
        found.hidden_states[row], alone[0, len(prompt) :], rtol=1e-4, atol=1e-4
    )
    keys_values = torch.stack([torch.stack([x.keys, x.values])[:, 0] for x in cache.layers])
    torch.testing.assert_close(
        found.keys_values(row), keys_values[:, :, :, len(prompt) :], rtol=1e-4, atol=1e-4
    )


def test_nothing_is_padded(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    replace_attention(adapters.model)
    seen = []
    adapters.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    suffixes = [Suffix(text(length, length)) for length in (3, 50, 7)]
    for batch in prefill_batches(adapters.model, suffixes, 4096):
        prefill(adapters.model, [suffixes[i] for i in batch], keep=False)
    assert seen == [(1, 60)]


def test_suffixes_of_one_prefix_are_read_side_by_side(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    prefixes = PrefixCache(adapters, Limits(prefix_cache_bytes=0))
    one, other = prefixes.prefill("a", [text(9, 1), text(9, 2)], keep=False)
    suffixes = [Suffix((1,), one), Suffix((2,), other), Suffix((3,), one), Suffix((4,))]
    assert prefill_batches(adapters.model, suffixes, 4096) == [[3], [0, 2, 1]]


@pytest.mark.parametrize(("dear", "calls"), [(False, 40), (True, 4)])
def test_prefixes_of_like_sizes_are_attended_to_at_once(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, dear: bool, calls: int
) -> None:
    adapters = make_adapters(tiny_model)
    prefixes = PrefixCache(adapters, Limits(prefix_cache_bytes=0))
    # Of 20 to 59 tokens, with 1 to 3 behind each.
    prompts = [text(20 + i, i) for i in range(40)]
    read = prefixes.prefill("a", prompts, keep=False)
    suffixes = [Suffix(text(1 + i % 3, i), prefix) for i, prefix in enumerate(read)]
    seen = []
    attend = shared_prefixes.attend_with_lse

    def counted(*args: Any, **more: Any) -> Any:
        seen.append(args[0].shape)
        return attend(*args, **more)

    with torch.inference_mode(), adapters.using("a") as model:
        in_place = prefill(model, suffixes, keep=False)
        monkeypatch.setattr(shared_prefixes, "attend_with_lse", counted)
        monkeypatch.setattr(like_sizes, "launches_are_dear", lambda device: dear)
        found = prefill(model, suffixes, keep=False)
    assert len(seen) == 2 * calls  # two layers
    for mine, theirs in zip(found.hidden_states, in_place.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
