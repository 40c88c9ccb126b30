"""Texts that are read in one row give what each gives when it is read alone."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from flowtune_cli.engine import attention
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.forward import hidden_states
from flowtune_cli.engine.prefixes import Prefixes
from flowtune_cli.engine.reading import Text, _alike, passes, read
from flowtune_cli.models.loading import LoadedModel
from support.tiny import make_adapters, make_model, text

ARCHITECTURES = ("Llama", "Qwen3", "Gemma2", "Mistral")
"""The latter two read side by side: soft caps, windows."""


@pytest.fixture(params=ARCHITECTURES)
def adapters(tiny_model: LoadedModel, request: pytest.FixtureRequest) -> Adapters:
    return make_adapters(make_model(request.param, tiny_model))


@pytest.mark.parametrize("fused", [True, False])
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_each_text_is_read_as_if_alone(
    adapters: Adapters, fused: bool, data: st.DataObject
) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    beginnings = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    widths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=7))
    budget = data.draw(st.sampled_from([1, 40, 10_000]))
    prefixes = Prefixes(adapters, 4096, 0)
    prompts = [text(length, rng.randrange(10**6)) for length in beginnings]
    # The last is chained: its beginning is that of another one.
    prompts.append(prompts[0] + text(20, rng.randrange(10**6)))
    laid = prefixes.read("a", prompts, keep=False)
    behind = [rng.choice([*range(len(prompts)), None]) for _ in widths]
    texts = [
        Text(text(width, rng.randrange(10**6)), None if of is None else laid[of])
        for width, of in zip(widths, behind, strict=True)
    ]
    split = passes(adapters.model, texts, budget)
    assert sorted(i for batch in split for i in batch) == list(range(len(texts)))
    with patch.object(attention, "_FLASH", attention._FLASH if fused else None):
        for batch in split:
            assert len({texts[i].behind is None for i in batch}) == 1
            with adapters.using("a") as model:
                found = read(model, [texts[i] for i in batch], keep=True)
            for row, i in enumerate(batch):
                of = behind[i]
                check(adapters, () if of is None else prompts[of], texts[i].ids, found, row)


def check(adapters, begin, ids, found, row) -> None:
    cache = DynamicCache()
    with torch.inference_mode(), adapters.using("a") as model:
        alone = hidden_states(model, torch.tensor([[*begin, *ids]]), cache=cache)
    torch.testing.assert_close(found.hidden[row], alone[0, len(begin) :], rtol=1e-4, atol=1e-4)
    keys_values = torch.stack([torch.stack([x.keys, x.values])[:, 0] for x in cache.layers])
    torch.testing.assert_close(
        found.keys_values(row), keys_values[:, :, :, len(begin) :], rtol=1e-4, atol=1e-4
    )


def test_nothing_is_padded(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    seen = []
    adapters.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    texts = [Text(text(width, width)) for width in (3, 50, 7)]
    for batch in passes(adapters.model, texts, 4096):
        read(adapters.model, [texts[i] for i in batch], keep=False)
    assert seen == [(1, 60)]


def test_texts_behind_one_prefix_stand_beside_each_other(tiny_model: LoadedModel) -> None:
    adapters = make_adapters(tiny_model)
    one, other = Prefixes(adapters, 4096, 0).read("a", [text(9, 1), text(9, 2)], keep=False)
    texts = [Text((1,), one), Text((2,), other), Text((3,), one), Text((4,))]
    assert passes(adapters.model, texts, 4096) == [[3], [0, 2, 1]]


@given(st.lists(st.integers(1, 200), max_size=30))
def test_texts_of_like_lengths_look_together(lengths: list[int]) -> None:
    groups = _alike(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert sum(longest - lengths[i] for i in group) <= 48
