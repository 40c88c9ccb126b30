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
from flowtune_cli.engine.likelihoods import Pair, likelihoods, packed
from flowtune_cli.engine.prefixes import Prefixes
from flowtune_cli.engine.scoring import score
from flowtune_cli.models.loading import LoadedModel
from support.tiny import ARCHITECTURES, WINDOW, likelihood, make_adapters, make_model, text


def pair(prompt: tuple[int, ...], completion: tuple[int, ...], context: int = 0) -> Pair:
    return Pair(prompt, context, completion)


few = settings(max_examples=50)
PAIRS: list[Pair] = [
    pair(text(9, 0), text(4, 10)),
    pair(text(3, 1), text(1, 11)),
    pair(text(9, 0), text(1, 12)),
    pair(text(1, 2), text(12, 13)),
    pair(text(20, 3), text(2, 14)),
    pair(text(9, 0), text(7, 15)),
    pair(text(9, 0), text(7, 15)[:3]),
]


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


def made(adapters: Adapters) -> Prefixes:
    return Prefixes(adapters, 4096, 10**9)


def naive(adapters: Adapters, adapter: str | None, pairs: Sequence[Pair]) -> list[float]:
    with torch.no_grad():
        return [
            float(likelihood(adapters, adapter, p.prompt, p.completion, p.context)) for p in pairs
        ]


def scored(
    adapters: Adapters, adapter: str | None, pairs: Sequence[Pair], tokens: int = 4096, **more: Any
) -> list[float]:
    return score(Prefixes(adapters, tokens, 10**9), adapter, pairs, **{"keep": False, **more})


def near(expected: Sequence[float]) -> Any:
    return pytest.approx(list(expected), abs=1e-4)


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("tokens_per_batch", [1, 12, 4096])
def test_scores_are_those_of_a_pass_for_each(
    adapters: Adapters, adapter: str | None, keep: bool, tokens_per_batch: int
) -> None:
    found = scored(adapters, adapter, PAIRS, tokens_per_batch, keep=keep)
    assert found == near(naive(adapters, adapter, PAIRS))


@pytest.mark.parametrize("adapter", [None, "a"])
def test_likelihoods_are_those_of_a_pass_for_each(adapters: Adapters, adapter: str | None) -> None:
    found = likelihoods(made(adapters), adapter, PAIRS).detach()
    assert found.dtype == torch.float32
    assert found.tolist() == near(naive(adapters, adapter, PAIRS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(tiny_model: LoadedModel, architecture: str) -> None:
    adapters = make_adapters(make_model(architecture, tiny_model))
    beginning = text(2 * WINDOW, 30)
    pairs = [p._replace(prompt=beginning + p.prompt) for p in PAIRS] + PAIRS
    expected = naive(adapters, "a", pairs)
    assert scored(adapters, "a", pairs) == near(expected)
    behind = [p._replace(context=len(beginning) - n) for n, p in enumerate(pairs[: len(PAIRS)])]
    contexts = naive(adapters, "a", behind)
    assert contexts != near(expected[: len(PAIRS)])
    assert scored(adapters, "a", behind) == near(contexts)
    assert likelihoods(made(adapters), "a", behind).tolist() == near(contexts)
    # All with the beginning in common, which is then read once.
    assert scored(adapters, "a", pairs[: len(PAIRS)]) == near(expected[: len(PAIRS)])
    assert likelihoods(made(adapters), "a", pairs).tolist() == near(expected)


def test_one_token_completions_need_the_prompts_alone(adapters: Adapters) -> None:
    pairs = [pair(text(6, n % 2), (n,)) for n in range(8)]
    passes = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_hook(lambda *_: passes.append(1))
    found = scored(adapters, "a", pairs)
    hook.remove()
    assert len(passes) == 1
    assert found == near(naive(adapters, "a", pairs))


def test_what_is_kept_serves_completions_that_come_later(adapters: Adapters) -> None:
    prefixes = Prefixes(adapters, 4096, 10**9)
    first = score(prefixes, "a", PAIRS[:3], keep=True)
    later = score(prefixes, "a", PAIRS[3:], keep=True)
    assert first + later == near(naive(adapters, "a", PAIRS))
    assert (prefixes.hits, prefixes.misses) == (1, 4)


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
    pairs = PAIRS + [p._replace(context=max(len(p.prompt) - n, 0)) for n, p in enumerate(PAIRS[:5])]
    together = gradients(adapters, list(likelihoods(made(adapters), "a", pairs)))
    apart = gradients(adapters, [likelihoods(made(adapters), "a", [p])[0] for p in pairs])
    slow = gradients(
        adapters, [likelihood(adapters, "a", p.prompt, p.completion, p.context) for p in pairs]
    )
    assert all(gradient.abs().max() > 0.01 for gradient in slow)
    assert_equal_gradients(together, apart)
    assert_equal_gradients(together, slow)


def test_completions_of_one_prompt_share_its_row(adapters: Adapters) -> None:
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompt, done = text(20, 0), text(7, 15)
    pairs = [pair(prompt, end) for end in (text(4, 10), text(1, 12), done, done[:3])]
    found = likelihoods(made(adapters), "a", pairs)
    hook.remove()
    assert found.tolist() == near(naive(adapters, "a", pairs))
    # Behind the prompt stand 3 and 6 tokens: a completion's last one is never read.
    assert rows == [(1, 29)]


def test_rows_of_like_lengths_are_read_together(adapters: Adapters) -> None:
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    lengths = (20, 200, 22, 190, 24, 26)
    pairs = [pair(text(length, length), text(3, 7)) for length in lengths]
    found = likelihoods(made(adapters), "a", pairs)
    hook.remove()
    assert sorted(rows) == [(2, 202), (4, 28)]
    assert found.tolist() == near(naive(adapters, "a", pairs))


def test_an_empty_completion_is_certain(adapters: Adapters) -> None:
    pairs = [PAIRS[0], pair(PAIRS[0].prompt, ()), PAIRS[3], pair(text(4, 40), ())]
    expected = naive(adapters, "a", [PAIRS[0], PAIRS[3]])
    found = likelihoods(made(adapters), "a", pairs)
    assert found.tolist() == near([expected[0], 0.0, expected[1], 0.0])
    both = likelihoods(made(adapters), "a", [PAIRS[0], PAIRS[3]])
    assert_equal_gradients(
        torch.autograd.grad(found.sum(), adapters.parameters("a")),
        torch.autograd.grad(both.sum(), adapters.parameters("a")),
    )


ids = st.integers(1, 14).flatmap(lambda n: st.integers(0, 3).map(lambda seed: text(n, seed)))
random_pairs = st.lists(
    st.tuples(ids, ids, st.integers(0, 20)).map(
        lambda drawn: pair(drawn[0], drawn[1], min(drawn[2], len(drawn[0])))
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def shared(_loaded: LoadedModel) -> Adapters:
    """For tests that run many times and change nothing."""
    return make_adapters(LoadedModel(**{**vars(_loaded), "model": copy.deepcopy(_loaded.model)}))


@few
@given(pairs=random_pairs, tokens=st.integers(1, 60), keep=st.booleans())
def test_any_pairs(shared: Adapters, pairs: list[Pair], tokens: int, keep: bool) -> None:
    expected = naive(shared, "a", pairs)
    assert scored(shared, "a", pairs, tokens, keep=keep) == near(expected)
    assert likelihoods(made(shared), "a", pairs).tolist() == near(expected)


def test_a_context_is_read_once_for_all_adapters_and_updates(adapters: Adapters) -> None:
    prefixes = made(adapters)
    context = text(40, 1)
    pairs = [pair(context + text(3, n), text(5, n), len(context)) for n in range(2)]
    rows = []
    decoder = adapters.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for adapter in ("a", "b", "a"):
        score(prefixes, adapter, pairs, keep=True)
        gradients(adapters, list(likelihoods(prefixes, "a", pairs)))
        adapters.versions["a"] += 1
    hook.remove()
    assert [shape for shape in rows if shape[1] >= len(context)] == [(1, len(context))]
    assert scored(adapters, "a", pairs) == near(naive(adapters, "a", pairs))
    # The base model alone reads it, so another adapter's memory of it does no harm.
    assert scored(adapters, "b", pairs) == near(naive(adapters, "b", pairs))


def test_texts_behind_one_context_share_its_row(adapters: Adapters) -> None:
    prefixes = made(adapters)
    context = text(40, 1)
    pairs = [pair(context, text(n, n), len(context)) for n in (3, 6, 9)]
    (found,) = [row for begin, row in packed(prefixes, pairs) if begin == context]
    assert len(found.ids) == 2 + 5 + 8
    assert likelihoods(prefixes, "a", pairs).tolist() == near(naive(adapters, "a", pairs))
