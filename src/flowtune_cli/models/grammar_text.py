"""Parts of Lark grammars for llguidance: texts that may hold special tokens, and laid-out JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

JSON_LAYOUT = {"whitespace_pattern": r" |\n {0,24}"}
"""Between the parts of constrained JSON: a space, or a line break with an indent. Where any white
space is allowed, a weak model writes it to no end."""


class Literals:
    """Writes texts as grammars have them.

    Args:
        tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token.content: index for index, token in added if token.special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)))

    def text(self, text: str) -> str:
        """A text; the special tokens that it spells out are these tokens."""
        parts, place = [], 0
        for found in self._any.finditer(text) if self._special else ():
            parts += [text[place : found.start()], f"<[{self._special[found.group()]}]>"]
            place = found.end()
        parts.append(text[place:])
        written = [
            part if number % 2 else json.dumps(part, ensure_ascii=False)
            for number, part in enumerate(parts)
            if part
        ]
        return " ".join(written)

    def is_special(self, text: str) -> bool:
        """Whether a text is a special token."""
        return text in self._special


def json_rule(name: str, schema: Mapping[str, Any]) -> str:
    """A rule that is JSON of a schema."""
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': JSON_LAYOUT})}"


def without(*marks: str) -> str:
    """An expression of a terminal: any text that spells none of these out."""
    parts = [r"/(?s:.*)/", *(f"~/(?s:.*){escaped(mark)}(?s:.*)/" for mark in marks)]
    return " & ".join(parts)


def escaped(text: str) -> str:
    """A text in a regular expression of a grammar."""
    return re.escape(text).replace("/", r"\/")
