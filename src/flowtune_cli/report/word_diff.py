"""Marks the words in which two texts differ."""

from __future__ import annotations

import difflib
import re

Piece = tuple[str, bool]
"""A piece of a text, and whether the other text lacks it."""


def mark_differences(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, which joined are the texts again.

    Whole words are compared, without the white space around them.
    """
    words = [re.findall(r"\s*\S+|\s+$", text) for text in (first, second)]
    same: list[set[int]] = [set(), set()]
    bare = [[word.strip() for word in side] for side in words]
    matcher = difflib.SequenceMatcher(None, bare[0], bare[1], autojunk=False)
    for block in matcher.get_matching_blocks():
        same[0].update(range(block.a, block.a + block.size))
        same[1].update(range(block.b, block.b + block.size))
    left, right = (_pieces(side, common) for side, common in zip(words, same, strict=True))
    return left, right


def _pieces(words: list[str], same: set[int]) -> list[Piece]:
    pieces: list[Piece] = []
    for number, word in enumerate(words):
        differs = number not in same
        if differs:
            # White space is marked only between two marked words.
            space, word = word[: len(word) - len(word.lstrip())], word.lstrip()
            _add(pieces, space, bool(pieces) and pieces[-1][1] and bool(word))
        _add(pieces, word, differs and bool(word))
    return pieces


def _add(pieces: list[Piece], text: str, differs: bool) -> None:
    if not text:
        return
    if pieces and pieces[-1][1] == differs:
        text = pieces.pop()[0] + text
    pieces.append((text, differs))
