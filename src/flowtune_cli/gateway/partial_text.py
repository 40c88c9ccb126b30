"""The text of an answer that is being written, as far as it is certain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class TextOfTokens(Protocol):
    """Turns token ids into text: what is known here of the model's tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Their text without special tokens."""

    def whole_text(self, ids: Sequence[int]) -> str:
        """Their text with the special tokens in it."""


@dataclass
class PartialText:
    """Takes tokens, and gives what is new of the text.

    Held back are half a character, what may be the beginning of a stop string, and all from a stop
    string on, with which the answer ends.

    Args:
        tokens: the tokenizer's.
        stops: an answer ends before the first of these, which may hold special tokens.
        stripped: the answer has no white space around it.

    Attributes:
        sent: what was given so far, which the whole answer begins with.
    """

    tokens: TextOfTokens
    stops: Sequence[str] = ()
    stripped: bool = False
    sent: str = ""

    def __post_init__(self) -> None:
        self._ids: list[int] = []

    def add(self, ids: Iterable[int]) -> str:
        """What is new and certain, with further tokens; often nothing."""
        self._ids += ids
        text = self.tokens.decode(self._ids)
        held = 0
        if self.stops:
            # Special tokens of the end of the text only make it longer: what is held back of the
            # one is enough for the other.
            whole = self.tokens.whole_text(self._ids)
            held = max(self._held(text), self._held(whole))
        certain = text[: max(len(text) - held, 0)].rstrip("\ufffd")
        if self.stripped:
            certain = certain.strip()
        if len(certain) <= len(self.sent) or not certain.startswith(self.sent):
            return ""
        new, self.sent = certain[len(self.sent) :], certain
        return new

    def rest(self, text: str) -> str | None:
        """What is left of the whole answer; None if it does not begin with what was sent."""
        return text[len(self.sent) :] if text.startswith(self.sent) else None

    def _held(self, text: str) -> int:
        """How many letters of the end are, or may become, a stop string."""
        held = 0
        for stop in self.stops:
            place = text.find(stop)
            if place >= 0:
                held = max(held, len(text) - place)
                continue
            most = min(len(stop) - 1, len(text))
            held = max(held, next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0))
        return held
