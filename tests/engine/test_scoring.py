"""Log-likelihoods by prefixes, and with gradients, against a forward pass for each pair."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.likelihoods import Completion, likelihoods, pack_completions
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.scoring import score
from flowtune_cli.models.loading import LoadedModel
from support.tiny import ARCHITECTURES, WINDOW, likelihood, make_adapters, make_model, text


def after(prompt: tuple[int, ...], tokens: tuple[int, ...], frozen_length: int = 0) -> Completion:
    return Completion(prompt, frozen_length, tokens)


few = settings(max_examples=50)
COMPLETIONS: list[Completion] = [
    after(text(9, 0), text(4, 10)),
    after(text(3, 1), text(1, 11)),
    after(text(9, 0), text(1, 12)),
    after(text(1, 2), text(12, 13)),
    after(text(20, 3), text(2, 14)),
    after(text(9, 0), text(7, 15)),
    after(text(9, 0), text(7, 15)[:3]),
]


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


def made(adapters: Adapters) -> PrefixCache:
    return PrefixCache(adapters, Limits())


def naive(
    adapters: Adapters, adapter: str | None, completions: Sequence[Completion]
) -> list[float]:
    with torch.no_grad():
        return [slow(adapters, adapter, completion).item() for completion in completions]


def slow(adapters: Adapters, adapter: str | None, completion: Completion) -> torch.Tensor:
    prompt, frozen_length, tokens, _ = completion
    return likelihood(adapters, adapter, prompt, tokens, frozen_length)


def scored(
    adapters: Adapters,
    adapter: str | None,
    completions: Sequence[Completion],
    tokens: int = 4096,
    **more: Any,
) -> list[float]:
    return score(
        PrefixCache(adapters, Limits(tokens)), adapter, completions, **{"keep": False, **more}
    )


def near(expected: Sequence[float]) -> Any:
    return pytest.approx(list(expected), abs=1e-4)


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [1, 12, 4096])
def test_scores_are_those_of_a_pass_for_each(
    adapters: Adapters, adapter: str | None, keep: bool, tokens_per_batch: int
) -> None:
    found = scored(adapters, adapter, COMPLETIONS, tokens_per_batch, keep=keep)
    assert found == near(naive(adapters, adapter, COMPLETIONS))


@pytest.mark.parametrize("adapter", [None, "a"])
def test_likelihoods_are_those_of_a_pass_for_each(adapters: Adapters, adapter: str | None) -> None:
    found = likelihoods(made(adapters), adapter, COMPLETIONS).detach()
    assert found.dtype == torch.float32
    assert found.tolist() == near(naive(adapters, adapter, COMPLETIONS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(tiny_model: LoadedModel, architecture: str) -> None:
    adapters = make_adapters(make_model(architecture, tiny_model))
    beginning = text(2 * WINDOW, 30)
    completions = [p._replace(prompt=beginning + p.prompt) for p in COMPLETIONS] + COMPLETIONS
    expected = naive(adapters, "a", completions)
    assert scored(adapters, "a", completions) == near(expected)
    frozen = [
        p._replace(frozen_length=len(beginning) - n)
        for n, p in enumerate(completions[: len(COMPLETIONS)])
    ]
    others = naive(adapters, "a", frozen)
    assert others != near(expected[: len(COMPLETIONS)])
    assert scored(adapters, "a", frozen) == near(others)
    assert likelihoods(made(adapters), "a", frozen).tolist() == near(others)
    # All with the beginning in common, which is then read once.
    assert scored(adapters, "a", completions[: len(COMPLETIONS)]) == near(
        expected[: len(COMPLETIONS)]
    )
    assert likelihoods(made(adapters), "a", completions).tolist() == near(expected)


def test_one_token_completions_need_the_prompts_alone(adapters: Adapters) -> None:
    completions = [after(text(6, n % 2), (n,)) for n in range(8)]
    passes = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_hook(lambda *_: passes.append(1))
    found = scored(adapters, "a", completions)
    hook.remove()
    assert len(passes) == 1
    assert found == near(naive(adapters, "a", completions))


def test_what_is_kept_serves_completions_that_come_later(adapters: Adapters) -> None:
    prefixes = PrefixCache(adapters, Limits())
    read = []
    adapters.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    first = score(prefixes, "a", COMPLETIONS[:3], keep=True)
    later = score(prefixes, "a", COMPLETIONS[3:], keep=True)
    # Two prompts, one completion of 4 tokens; two more prompts, completions of 12, 2, 7 and 3.
    assert read == [(1, 9 + 3), (1, 3), (1, 1 + 20), (1, 11 + 1 + 6 + 2)]
    assert first + later == near(naive(adapters, "a", COMPLETIONS))


def gradients(adapters: Adapters, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Of a sum in which every value counts differently."""
    total = torch.stack([value * (1 + 0.3 * n) for n, value in enumerate(values)]).sum()
    return list(torch.autograd.grad(total, adapters.parameters("a")))


def assert_equal_gradients(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_completions_that_share_a_row_have_the_gradients_of_those_apart(
    adapters: Adapters,
) -> None:
    completions = COMPLETIONS + [
        p._replace(frozen_length=max(len(p.prompt) - n, 0)) for n, p in enumerate(COMPLETIONS[:5])
    ]
    together = gradients(adapters, list(likelihoods(made(adapters), "a", completions)))
    apart = gradients(adapters, [likelihoods(made(adapters), "a", [p])[0] for p in completions])
    expected = gradients(adapters, [slow(adapters, "a", p) for p in completions])
    assert all(gradient.abs().max() > 0.01 for gradient in expected)
    assert_equal_gradients(together, apart)
    assert_equal_gradients(together, expected)


def test_completions_of_one_prompt_share_its_row(adapters: Adapters) -> None:
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompt, done = text(20, 0), text(7, 15)
    completions = [after(prompt, end) for end in (text(4, 10), text(1, 12), done, done[:3])]
    found = likelihoods(made(adapters), "a", completions)
    hook.remove()
    assert found.tolist() == near(naive(adapters, "a", completions))
    # After the prompt come 3 and 6 tokens: a completion's last one is never read.
    assert rows == [(1, 29)]


def test_rows_of_like_lengths_are_read_together(adapters: Adapters) -> None:
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    lengths = (20, 200, 22, 190, 24, 26)
    completions = [after(text(length, length), text(3, 7)) for length in lengths]
    found = likelihoods(made(adapters), "a", completions)
    hook.remove()
    assert sorted(rows) == [(2, 202), (4, 28)]
    assert found.tolist() == near(naive(adapters, "a", completions))


def test_an_empty_completion_is_certain(adapters: Adapters) -> None:
    completions = [
        COMPLETIONS[0],
        after(COMPLETIONS[0].prompt, ()),
        COMPLETIONS[3],
        after(text(4, 40), ()),
    ]
    expected = naive(adapters, "a", [COMPLETIONS[0], COMPLETIONS[3]])
    found = likelihoods(made(adapters), "a", completions)
    assert found.tolist() == near([expected[0], 0.0, expected[1], 0.0])
    both = likelihoods(made(adapters), "a", [COMPLETIONS[0], COMPLETIONS[3]])
    assert_equal_gradients(
        torch.autograd.grad(found.sum(), adapters.parameters("a")),
        torch.autograd.grad(both.sum(), adapters.parameters("a")),
    )


ids = st.integers(1, 14).flatmap(lambda n: st.integers(0, 3).map(lambda seed: text(n, seed)))
random_pairs = st.lists(
    st.tuples(ids, ids, st.integers(0, 20)).map(
        lambda drawn: after(drawn[0], drawn[1], min(drawn[2], len(drawn[0])))
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def shared(_loaded: LoadedModel) -> Adapters:
    """For tests that run many times and change nothing."""
    return make_adapters(LoadedModel(**{**vars(_loaded), "model": copy.deepcopy(_loaded.model)}))


@few
@given(completions=random_pairs, tokens=st.integers(1, 60), keep=st.booleans())
def test_any_pairs(
    shared: Adapters, completions: list[Completion], tokens: int, keep: bool
) -> None:
    expected = naive(shared, "a", completions)
    assert scored(shared, "a", completions, tokens, keep=keep) == near(expected)
    assert likelihoods(made(shared), "a", completions).tolist() == near(expected)


def test_a_frozen_prefix_is_read_once_for_all_adapters_and_updates(adapters: Adapters) -> None:
    prefixes = made(adapters)
    frozen = text(40, 1)
    completions = [after(frozen + text(3, n), text(5, n), len(frozen)) for n in range(2)]
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for adapter in ("a", "b", "a"):
        score(prefixes, adapter, completions, keep=True)
        gradients(adapters, list(likelihoods(prefixes, "a", completions)))
        adapters.versions["a"] += 1
    hook.remove()
    assert [shape for shape in rows if shape[1] >= len(frozen)] == [(1, len(frozen))]
    assert scored(adapters, "a", completions) == near(naive(adapters, "a", completions))
    # The base model alone reads it, so another adapter's memory of it does no harm.
    assert scored(adapters, "b", completions) == near(naive(adapters, "b", completions))


def test_completions_after_one_frozen_prefix_share_its_row(adapters: Adapters) -> None:
    prefixes = made(adapters)
    frozen = text(40, 1)
    completions = [after(frozen, text(n, n), len(frozen)) for n in (3, 6, 9)]
    (found,) = [row for prefix, row in pack_completions(prefixes, completions) if prefix == frozen]
    assert len(found.ids) == 2 + 5 + 8
    assert likelihoods(prefixes, "a", completions).tolist() == near(
        naive(adapters, "a", completions)
    )
