"""Two texts word by word: what one has and the other has not."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

Part = tuple[Literal["same", "only"], str]


def word_diff(one: str, other: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts: those that both have, and those that only this one has.

    White space counts as a part of its own, so that the parts of a text make up the text.
    """
    words, others = _words(one), _words(other)
    first: list[Part] = []
    second: list[Part] = []
    matcher = SequenceMatcher(None, words, others, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        name: Literal["same", "only"] = "same" if kind == "equal" else "only"
        if a < b:
            first.append((name, "".join(words[a:b])))
        if c < d:
            second.append((name, "".join(others[c:d])))
    return _joined(first), _joined(second)


def _joined(parts: list[Part]) -> list[Part]:
    """The parts with words that only one has joined over the white space between them."""
    joined: list[Part] = []
    for kind, text in parts:
        between = len(joined) > 1 and joined[-1][0] == "same" and joined[-1][1].isspace()
        if kind == "only" and between and joined[-2][0] == "only":
            (_, before), (_, space) = joined[-2:]
            joined[-2:] = [("only", before + space + text)]
        else:
            joined.append((kind, text))
    return joined


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
