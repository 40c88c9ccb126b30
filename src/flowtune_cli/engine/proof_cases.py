"""The texts that the ways to run a model are compared by: see ``proof``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from .likelihoods import Completion
from .packing import MIN_SHARED_TOKENS, Ids

NEW_TOKENS = 6
"""Tokens that are decoded after each prompt."""


class Text(NamedTuple):
    """A text that is cut into completions, each after all before it.

    Args:
        frozen_length: how many of its tokens the base model reads.
        begins: where its completions begin; the last one ends with the text.
    """

    ids: Ids
    frozen_length: int
    begins: tuple[int, ...]

    @property
    def completions(self) -> list[Completion]:
        return [
            Completion(self.ids[:begin], self.frozen_length, self.ids[begin:end])
            for begin, end in pairwise([*self.begins, len(self.ids)])
        ]

    def frozen(self, length: int) -> Text:
        """The same after a frozen prefix of ``length`` tokens."""
        return self._replace(frozen_length=length)


class Case(NamedTuple):
    """Texts that are learned together.

    Args:
        texts: of which the adapter reads all.
        frozen: others, after a frozen prefix.
    """

    texts: list[Text]
    frozen: list[Text]


def thorough_case(model: Any, context: int, real: Sequence[Ids]) -> Case:
    """What begins alike and what does not, texts shorter and longer than narrow windows.

    Args:
        context: the longest text that the model will read, in tokens.
        real: token ids of real texts.
    """
    size = vocabulary(model)
    shared, *others = random_texts(size, [20, 5, 11, 7, 3, 1, 3, 6, 6])
    texts = []
    for beginning in (shared, *(_within(ids[:30], size) for ids in real)):
        for tail, tokens in ((0, 5), (1, 6), (1, 7), (3, 4)):
            texts.append(_text((*beginning, *others[tail]), others[tokens]))
        # A prompt that another one continues.
        texts.append(_text((*beginning, *others[0], *others[3]), others[5]))
    texts.append(_text(others[2], others[6]))
    texts = [text for text in texts if text.begins[0] <= context - NEW_TOKENS] or texts[-1:]
    first = texts[0]
    length = min(len(shared), first.begins[0])
    frozen = [text.frozen(length) for text in texts[:3]]
    frozen.append(_text(first.ids[:length], others[6]).frozen(length))
    return Case(texts, frozen)


def short_cases(model: Any, context: int, real: Sequence[Ids]) -> list[Case]:
    """Two cases, each of two texts of one length that part: few passes over a whole model."""
    size = vocabulary(model)
    *tails, first, second = random_texts(size, [10, 10, MIN_SHARED_TOKENS, MIN_SHARED_TOKENS])
    beginnings = [_within(ids, size) for ids in real if len(ids) >= MIN_SHARED_TOKENS]
    length = max(min(MIN_SHARED_TOKENS, context - len(tails[0]) - NEW_TOKENS), 1)
    begins = (length, length + 3, length + 6)
    cases = []
    for ids in (*beginnings, first, second)[:2]:
        texts = [Text((*ids[:length], *tail), 0, begins) for tail in tails]
        cases.append(Case(texts, [text.frozen(length) for text in texts]))
    return cases


def _text(prompt: Ids, tokens: Ids) -> Text:
    return Text((*prompt, *tokens), 0, (len(prompt),))


def completions(texts: Sequence[Text]) -> list[Completion]:
    """Those of several texts, in order."""
    return [completion for text in texts for completion in text.completions]


def weights(completions: Sequence[Completion]) -> list[float]:
    """What each completion counts in a gradient: no two side by side the same."""
    return [1.0 - 0.4 * (number % 4) for number in range(len(completions))]


def vocabulary(model: Any) -> int:
    """How many tokens a model has embeddings for."""
    return int(model.get_input_embeddings().weight.shape[0])


def random_texts(vocabulary: int, lengths: Sequence[int]) -> list[Ids]:
    """Token ids drawn at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())
        for length in lengths
    ]


def _within(ids: Ids, vocabulary: int) -> Ids:
    """Tokens that a copy with a small vocabulary has, too."""
    return tuple(token % vocabulary for token in ids)
