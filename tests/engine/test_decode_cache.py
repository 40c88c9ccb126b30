"""Rows that share a prefix's keys and values give what rows with copies of them give."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine import attention_kernels
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.cascade import attention_is_replaced
from flowtune_cli.engine.decode_cache import CascadeDecodeCache, make_decode_cache
from flowtune_cli.engine.forward import hidden_states
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.padded import PaddedCache
from flowtune_cli.engine.prefix_cache import PrefixCache
from support.device import DEVICE

WORDS = 60
FIXTURES = HealthCheck.function_scoped_fixture


def llama(**more: Any) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **more,
    )
    return LlamaForCausalLM(config).eval().to(DEVICE)


@pytest.fixture(scope="module")
def prefixes() -> PrefixCache:
    adapters = Adapters(llama(), {"a": ()}, AdapterSettings(), 0)
    with torch.no_grad():
        for parameter in adapters.parameters("a"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    prefixes = PrefixCache(adapters, Limits(prefix_cache_bytes=0))
    assert attention_is_replaced(adapters.model)
    return prefixes


@pytest.mark.parametrize("fused", [True, False])
@given(data=st.data())
def test_shared_prefixes_give_what_copies_give(
    prefixes: PrefixCache, fused: bool, data: st.DataObject
) -> None:
    kernel = attention_kernels.choose if fused else lambda *_, **__: "blocks"
    with patch.object(attention_kernels, "choose", kernel):
        shared_gives_what_copies_give(prefixes, data)


def shared_gives_what_copies_give(prefixes: PrefixCache, data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    prompts = [tuple(rng.randrange(WORDS) for _ in range(length)) for length in lengths]
    rows = [*range(len(prompts)), *rng.choices(range(len(prompts)), k=rng.randint(0, 6))]
    if rng.random() < 0.5:
        rng.shuffle(rows)
    read = prefixes.prefill("a", prompts, keep=False)
    with torch.inference_mode(), prefixes.adapters.using("a") as model:
        shared = CascadeDecodeCache(model, read, rows, [12] * len(rows))
        copies = PaddedCache(model, [read[row] for row in rows])
        for _ in range(4):
            tokens = torch.tensor(rng.choices(range(WORDS), k=len(rows)), device=DEVICE)[:, None]
            torch.testing.assert_close(
                shared.forward(tokens), copies.forward(tokens), rtol=1e-4, atol=1e-5
            )
            staying = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
            shared.select_rows(staying)
            copies.select_rows(staying)
            rows = [rows[row] for row in staying]


@pytest.fixture
def nan_in_new_memory() -> Iterator[None]:
    """Memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("nan_in_new_memory")
@pytest.mark.parametrize("kind", ["cascade", "padded"])
@settings(suppress_health_check=[*settings().suppress_health_check, FIXTURES])
@given(data=st.data())
def test_rows_that_join_others_give_what_their_texts_give_alone(
    prefixes: PrefixCache, kind: str, data: st.DataObject
) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(WORDS) for _ in range(count))

    with torch.inference_mode():
        texts: list[list[int]] = []
        cache: CascadeDecodeCache | PaddedCache | None = None
        for _ in range(data.draw(st.integers(1, 6))):
            if len(texts) < 2 or rng.random() < 0.6:
                prompts = [tokens(rng.randint(1, 12)) for _ in range(rng.randint(1, 3))]
                # Some prompts may have no row, and some several.
                owners = sorted(rng.choices(range(len(prompts)), k=rng.randint(1, 4)))
                read = prefixes.prefill("a", prompts, keep=False)
                new: Any
                with prefixes.adapters.using("a") as model:
                    if kind == "cascade":
                        limits = [rng.randint(20, 30) for _ in owners]
                        new = CascadeDecodeCache(model, read, owners, limits)
                    else:
                        new = PaddedCache(model, [read[owner] for owner in owners])
                if cache is None:
                    cache = new
                else:
                    cache.join(new)
                texts += [list(prompts[owner]) for owner in owners]
            else:
                staying = sorted(rng.sample(range(len(texts)), rng.randint(1, len(texts))))
                cache.select_rows(staying)
                texts = [texts[row] for row in staying]
            for _ in range(rng.randint(0, 3)):
                chosen = tokens(len(texts))
                for each, token in zip(texts, chosen, strict=True):
                    each.append(token)
                with prefixes.adapters.using("a") as model:
                    found = cache.forward(torch.tensor(chosen, device=DEVICE)[:, None])[:, 0]
                    for row, each in enumerate(texts):
                        ids = torch.tensor([each], device=DEVICE)
                        whole = hidden_states(model, ids, cache=DynamicCache())
                        torch.testing.assert_close(found[row], whole[0, -1], rtol=1e-4, atol=1e-5)


def test_memory_follows_the_rows_that_are_left(prefixes: PrefixCache) -> None:
    long, short, late = prefixes.prefill("a", [(1,) * 40, (2, 3), (4,)], keep=False)
    with torch.inference_mode(), prefixes.adapters.using("a") as model:
        cache = CascadeDecodeCache(model, [long, short], [0, 1], [50, 5])
        copies = PaddedCache(model, [long, short])
        for each in (cache, copies):
            each.select_rows([1])
        cache.join(CascadeDecodeCache(model, [late], [0], [7]))
        copies.join(PaddedCache(model, [late]))
        assert cache.prefixes.shape[2] == 2
        assert (cache.prefixes.shape[4], cache.suffixes.keys_values.shape[4]) == (2, 7)
        assert copies.mask.tolist() == [[1, 1], [0, 1]]
        assert copies.layers[0].keys.shape[-2] == 2


def test_steps_give_what_one_forward_pass_over_everything_gives(prefixes: PrefixCache) -> None:
    prompt, more = (5, 6, 7, 8), torch.tensor([9, 10, 11], device=DEVICE)
    (read,) = prefixes.prefill("a", [prompt], keep=False)
    with torch.inference_mode(), prefixes.adapters.using("a") as model:
        ids = torch.tensor([[*prompt, *more]], device=DEVICE)
        whole = hidden_states(model, ids, cache=DynamicCache())
        cache = make_decode_cache(model, [read], [0], [3])
        found = torch.cat([cache.forward(token[None, None])[0] for token in more])
    torch.testing.assert_close(found, whole[0, 4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"sliding_window": 8}, {"attn_logit_softcapping": 30.0}, {"sdpa": "eager"}]
)
def test_models_with_other_attention_get_copies(change: dict[str, Any]) -> None:
    model = llama()
    if "sdpa" in change:
        model.set_attn_implementation("eager")
    else:
        for name, value in change.items():
            setattr(model.config, name, value)
    before = model.config._attn_implementation
    adapters = Adapters(model, {"a": ()}, AdapterSettings(), 0)
    prefixes = PrefixCache(adapters, Limits(prefix_cache_bytes=0))
    read = prefixes.prefill("a", [(1, 2)], keep=False)
    with torch.inference_mode(), adapters.using("a") as inner:
        assert isinstance(make_decode_cache(inner, read, [0], [2]), PaddedCache)
    assert model.config._attn_implementation == before
