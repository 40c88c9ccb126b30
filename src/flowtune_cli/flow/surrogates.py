r"""Lone surrogates: halves of a pair, such as JSON's "\ud800", which no character stands for.

Python's strings hold them, and UTF-8, tokenizers and SQLite do not. So a text that a model reads,
or that is stored, is written to a file or printed, has their escapes instead: six characters,
``\ud800``, which are also what JSON has. Ids of examples may not have any.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""The text with lone surrogates as escapes like ``\ud800``; most often ``text`` itself."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()
