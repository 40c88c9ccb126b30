"""Rewards for text answers: exact match and token F1 after SQuAD's normalisation."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence


def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, golds: str | Sequence[str]) -> float:
    """1 if the answer equals the gold, or one of several, after normalisation, else 0."""
    return float(any(normalize(answer) == normalize(gold) for gold in _several(golds)))


def token_f1(answer: str, golds: str | Sequence[str]) -> float:
    """The F1 of the answer's bag of tokens with that of the gold, or the best of several.

    Two empty bags agree fully; an empty one and another not at all.
    """
    words = normalize(answer).split()
    return max((_f1(words, normalize(gold).split()) for gold in _several(golds)), default=0.0)


def _several(golds: str | Sequence[str]) -> Sequence[str]:
    """A single text is one gold: its letters are none."""
    return [golds] if isinstance(golds, str) else golds


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold))
