"""Word-by-word difference of two texts."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

Part = tuple[Literal["same", "only"], str]


def word_diff(one: str, other: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts: common ones, and those that only this text has.

    White space is also compared, so that the parts joined are the text.
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
    return _merge(first), _merge(second)


def _merge(parts: list[Part]) -> list[Part]:
    """Merge parts that only this text has over the white space between them."""
    merged: list[Part] = []
    for kind, text in parts:
        between = len(merged) > 1 and merged[-1][0] == "same" and merged[-1][1].isspace()
        if kind == "only" and between and merged[-2][0] == "only":
            (_, before), (_, space) = merged[-2:]
            merged[-2:] = [("only", before + space + text)]
        else:
            merged.append((kind, text))
    return merged


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)
