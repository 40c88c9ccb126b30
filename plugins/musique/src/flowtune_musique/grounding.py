"""Grounded answers: puts words of a chosen document in the place of an answer that has none.

The paper's "enforce grounded" (section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flowtune_cli import normalize


def ground(candidates: Sequence[str], documents: Sequence[str]) -> str:
    """The answer, or the best span of the candidates that stands literally in a document.

    An answer that stands literally in a document is left as it is. Otherwise the candidates are
    taken by how many of them agree after normalisation, the earlier one first on ties, and the
    first that has a span of words in a document gives its longest: the one with the most words
    after normalisation, the earlier one on ties. A text that is empty after normalisation says
    nothing, so it counts as standing nowhere.

    Args:
        candidates: the greedy answer first, then those of the alternatives.
        documents: the texts of the chosen documents.

    Returns:
        The grounded answer; the greedy one if no candidate has a span in any document.

    Raises:
        ValueError: there are no candidates.
    """
    if not candidates:
        raise ValueError("there is no answer to ground")
    answer = candidates[0]
    if _stands(answer, documents):
        return answer
    for candidate in _by_agreement(candidates):
        span = _longest_span(candidate, documents)
        if span is not None:
            return span
    return answer


def _by_agreement(candidates: Sequence[str]) -> list[str]:
    """The candidates that most agree with first; the sort is stable, so the greedy one on ties."""
    agreeing = Counter(normalize(candidate) for candidate in candidates)
    return sorted(candidates, key=lambda candidate: -agreeing[normalize(candidate)])


def _longest_span(candidate: str, documents: Sequence[str]) -> str | None:
    words = candidate.split()
    spans = (
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    )
    standing = [span for span in spans if _stands(span, documents)]
    return max(standing, key=lambda span: len(normalize(span).split()), default=None)


def _stands(text: str, documents: Sequence[str]) -> bool:
    return bool(normalize(text)) and any(text in document for document in documents)
