"""Features of a document for `retrieve`: the rare words that it shares.

The documents of a question are a chain that hangs together by names: the question names something
in the first, which names something in the next. The likelihood of a whole question hardly shows
that. Words count by how rare they are among the documents of a record.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from flowtune_cli import Feature

from .records import Document

Words = frozenset[str]

_WORD = re.compile(r"\w+")
# Too common to link anything, though some are rare among twenty documents.
_COMMON = frozenset(
    _WORD.findall(
        "a an and are as at be been by did do does for from had has have he her his how in is it"
        " its many of on or she that the their they this to was were what when where which who"
        " with"
    )
)


@lru_cache(maxsize=4096)
def words(text: str) -> Words:
    """The words of a text in lower case, without the commonest."""
    return frozenset(word.lower() for word in _WORD.findall(text)) - _COMMON


@lru_cache(maxsize=4096)
def names(text: str) -> Words:
    """Its words that begin with a capital letter or are numbers, in lower case."""
    found = (word for word in _WORD.findall(text) if word[0].isupper() or word[0].isdigit())
    return frozenset(word.lower() for word in found) - _COMMON


class Search:
    """How a search stands: a question, what was found for it, and what was not.

    Args:
        found: in the order in which it was found.
        unused: the other documents of the record.
    """

    def __init__(
        self, question: str, found: Sequence[Document], unused: Sequence[Document]
    ) -> None:
        self.found, self.unused = found, unused
        self.question = words(question)
        self.documents = len(found) + len(unused)

    @cached_property
    def having(self) -> Mapping[str, int]:
        """How many documents of the record have a word."""
        return Counter(word for each in (*self.found, *self.unused) for word in words(_text(each)))

    @cached_property
    def seen(self) -> Words:
        """All words of what was found."""
        return words(" ".join(map(_text, self.found)))

    @cached_property
    def leads(self) -> Words:
        """The names in what was found that the question does not have."""
        return names(" ".join(map(_text, self.found))) - self.question

    def rarity(self, word: str) -> float:
        """The inverse document frequency, as a share of that of a word in no document."""
        having = self.having.get(word, 0)
        return 1 - math.log(2 * having + 1) / math.log(2 * self.documents + 2)

    def share(self, some: Collection[str], among: Collection[str]) -> float:
        """The share of words that stand among others, rare ones counting more: 0 to 1."""
        total = sum(map(self.rarity, some))
        return sum(self.rarity(word) for word in some if word in among) / total if total else 0.0

    def rarest(self, some: Iterable[str]) -> float:
        """The rarity of the rarest of words: 0, where there are none, to 1."""
        return max(map(self.rarity, some), default=0.0)

    def links(self, document: Document) -> float:
        """How rare a name is that leads from what was found to a document."""
        return self.rarest(self.leads & words(_text(document)))

    def titled(self, document: Document) -> float:
        """How much of a document's title stands in what was found, and not in the question."""
        return self.share(words(document.title), self.seen - self.question)

    def adds(self, document: Document) -> float:
        """How much a document has of what the question names and nothing found has."""
        return self.share(self.question - self.seen, words(_text(document)))

    def named(self, document: Document) -> float:
        """How much of a document's title stands in the question."""
        return self.share(words(document.title), self.question)

    def asked(self, document: Document, query: str) -> float:
        """How much a document has of a query."""
        return self.share(words(query), words(_text(document)))


def _text(document: Document) -> str:
    return f"{document.title} {document.text}"


@lru_cache(maxsize=256)
def _search(question: str, found: tuple[Any, ...], unused: tuple[Document, ...]) -> Search:
    return Search(question, [each for each in found if isinstance(each, Document)], unused)


def search(inputs: Mapping[str, Any]) -> Search:
    """The search that a call is of, by its inputs ``question``, ``found`` and ``candidates``."""
    return _search(inputs["question"], tuple(inputs["found"]), tuple(inputs["candidates"]))


RETRIEVE_FEATURES = (
    Feature("title in question", lambda inputs: search(inputs).named(inputs["candidate"])),
    Feature("title in found", lambda inputs: search(inputs).titled(inputs["candidate"])),
    Feature("name from found", lambda inputs: search(inputs).links(inputs["candidate"])),
    Feature("question's rest", lambda inputs: search(inputs).adds(inputs["candidate"])),
    Feature("query", lambda inputs: search(inputs).asked(inputs["candidate"], inputs["query"])),
)
"""What else ranks documents. Their weights start at 0, and are learned."""
