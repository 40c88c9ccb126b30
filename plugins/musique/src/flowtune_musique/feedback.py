"""Rewards and targets of an episode, reported as soon as they are known.

An unanswerable example teaches sufficiency alone: its other rewards are undefined, and no other
node gets a target. An example without labels teaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowtune_cli import Episode, Example, exact_match, token_f1

from .metrics import support_f1
from .records import Document, Gold


class Feedback:
    """Reports the rewards and targets of one episode from its example's labels."""

    def __init__(self, episode: Episode, example: Example) -> None:
        self.episode = episode
        self.labels: Gold | None = example.gold
        self.gold = self.labels if self.labels is not None and self.labels.answerable else None
        if self.gold is None:
            episode.undefined("hit", "support_f1", "answer_f1", "answer_em")

    def retrieved(self, document: Document, candidates: Iterable[Document]) -> None:
        """``hit``: the retrieved document supports; undefined if no candidate did.

        Where all do, there is nothing to tell apart, and no target.
        """
        offered = list(candidates)
        right = self._supporting(offered)
        self.episode.reward("hit", float(document in right) if right else None)
        if 0 < len(right) < len(offered):
            self.episode.target("retrieve", right)

    def asked_to_stop(self, unused: Iterable[Document]) -> None:
        """It would have been right to stop if no unused document supports."""
        if self.gold is not None:
            self.episode.target("stop", not self._supporting(unused))

    def searched(self, found: Sequence[Document]) -> None:
        """``support_f1`` of all documents that were found."""
        value = None
        if self.gold is not None:
            value = support_f1([document.idx for document in found], self.gold.support)
        self.episode.reward("support_f1", value)

    def answered(self, answer: str) -> None:
        """``answer_f1`` and ``answer_em``; the first gold answer would have been right."""
        f1 = em = None
        if self.gold is not None:
            f1 = token_f1(answer, self.gold.answers)
            em = exact_match(answer, self.gold.answers)
            self.episode.target("concise", self.gold.answers[0])
        self.episode.reward("answer_f1", f1)
        self.episode.reward("answer_em", em)

    def judged(self, sufficient: bool) -> None:
        """``sufficiency``: whether the example was judged rightly to be answerable or not."""
        value = None
        if self.labels is not None:
            value = float(sufficient == self.labels.answerable)
            self.episode.target("sufficiency", self.labels.answerable)
        self.episode.reward("sufficiency", value)

    def _supporting(self, documents: Iterable[Document]) -> list[Document]:
        if self.gold is None:
            return []
        return [document for document in documents if document.idx in self.gold.support]
