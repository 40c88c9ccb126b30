"""All rows choose at once what each would choose by itself, and nothing waits for the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowtune_cli.engine.choosing import Chooser, Row, fixed_point_sums, sample
from flowtune_cli.flow.request import Decoding

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0, -9.0])


def sample_one(logprobs: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """A row's token by its definition, one operation after the other."""
    if decoding.temperature <= 0:
        return int(logprobs.argmax())
    probabilities = torch.softmax(logprobs / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        inside = (ordered.cumsum(0) - ordered) < decoding.top_p
        inside[0] = True
        probabilities = probabilities.index_fill(0, tokens[~inside], 0.0)
    cumulative = probabilities.cumsum(0)
    point = torch.rand((), generator=generator) * cumulative[-1]
    place = int(torch.searchsorted(cumulative, point, right=True))
    return min(place, int(probabilities.nonzero()[-1]))


def diversify(rows: list[Row], logprobs: Tensor) -> list[int]:
    """The tokens of all groups by their definition; those of samples are greedy."""
    chosen: list[int] = []
    for place, row in enumerate(rows):
        scores = logprobs[place].clone()
        for earlier, token in zip(rows[:place], chosen, strict=True):
            if earlier.prompt == row.prompt and row.number < row.decoding.groups:
                scores[token] -= earlier.decoding.diversity_penalty
        chosen.append(int(scores.argmax()))
    return chosen


decodings = st.builds(
    Decoding,
    groups=st.integers(1, 3),
    diversity_penalty=st.sampled_from([0.0, 0.7, 50.0]),
    samples=st.integers(0, 3),
    temperature=st.one_of(st.just(0.0), st.just(1.0), st.floats(0.05, 3.0)),
    top_p=st.one_of(st.just(1.0), st.just(0.0), st.floats(0.01, 0.999)),
)


def rows_of(requests: list[Decoding], seed: int = 0) -> list[Row]:
    return [
        Row(
            prompt,
            number,
            decoding,
            torch.Generator().manual_seed(seed + 97 * prompt + number)
            if number >= decoding.groups
            else None,
        )
        for prompt, decoding in enumerate(requests)
        for number in range(decoding.outputs)
    ]


@given(
    requests=st.lists(decodings, min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    vocabulary=st.sampled_from([2, 7, 259, 4099]),
    ties=st.booleans(),
)
def test_rows_choose_to_the_bit_as_if_alone(
    requests: list[Decoding], seed: int, vocabulary: int, ties: bool
) -> None:
    rows = rows_of(requests)
    noise = torch.Generator().manual_seed(seed)
    choose = Chooser(rows, "cpu")
    alone = rows_of(requests)
    for _ in range(3):  # the generators go on
        logits = 3 * torch.randn(len(rows), vocabulary, generator=noise)
        logprobs = (logits.round() if ties else logits).log_softmax(-1)
        expected = diversify(rows, logprobs)
        for place, row in enumerate(alone):
            if row.generator is not None:
                expected[place] = sample_one(logprobs[place], row.decoding, row.generator)
        assert choose(logprobs).tolist() == expected


@given(st.lists(decodings, min_size=1, max_size=4))
def test_nothing_waits_for_the_device(requests: list[Decoding]) -> None:
    # A tensor without data fails where its data would be waited for.
    rows = rows_of(requests)
    chosen = Chooser(rows, "meta")(torch.empty(len(rows), 50, device="meta"))
    assert (chosen.shape, chosen.dtype) == ((len(rows),), torch.long)


@given(seed=st.integers(0, 10**6), vocabulary=st.integers(1, 5000), sharp=st.floats(0.0, 20.0))
def test_sums_of_whole_numbers_are_those_of_floats(
    seed: int, vocabulary: int, sharp: float
) -> None:
    noise = torch.Generator().manual_seed(seed)
    probabilities = (sharp * torch.randn(3, vocabulary, generator=noise)).softmax(-1)
    found = fixed_point_sums(probabilities)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, probabilities.double().cumsum(-1).float(), rtol=1e-6, atol=1e-9
    )


def shares(how: Decoding, draws: int = 3000) -> torch.Tensor:
    """How often each token was drawn."""
    generator = torch.Generator().manual_seed(3)
    column = torch.ones(draws, 1)
    drawn = sample(
        LOGITS.log_softmax(-1).expand(draws, -1),
        how.temperature * column,
        how.top_p * column if how.top_p < 1 else None,
        torch.rand(draws, generator=generator),
    )
    return torch.bincount(drawn, minlength=len(LOGITS)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(-1)
    # Four standard deviations of a share.
    bound = 4 * (expected * (1 - expected) / 3000).sqrt() + 1e-3
    assert ((shares(Decoding(samples=1, temperature=temperature)) - expected).abs() < bound).all()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.0, [1]), (0.5, [1]), (0.6, [1, 3]), (0.8, [0, 1, 3]), (0.95, [0, 1, 3, 4])],
)
def test_the_smallest_set_with_so_much_probability_is_drawn_from(
    top_p: float, kept: list[int]
) -> None:
    # The likelihoods are 0.55, 0.20, 0.12, 0.07, 0.03 and next to nothing.
    expected = torch.zeros(len(LOGITS))
    expected[kept] = LOGITS[kept].softmax(-1)
    assert (shares(Decoding(samples=1, top_p=top_p)) - expected).abs().max() < 0.04
    assert (shares(Decoding(samples=1, top_p=top_p)) > 0).nonzero()[:, 0].tolist() == kept
