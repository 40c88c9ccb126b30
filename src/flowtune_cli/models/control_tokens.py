"""The tokens that steer a model, such as the end of a turn, where texts spell them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..flow.prompt import Segment


class ControlTokens:
    """A tokenizer's special tokens, and other added ones that its chat template writes.

    Args:
        tokenizer: of transformers.
        template: the source of the chat template; empty if there is none.

    Attributes:
        ids: the control tokens' ids by their texts.
        special: the texts of the special tokens, which decoding leaves out.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        names = set(getattr(tokenizer, "all_special_tokens", ()))
        self.ids: dict[str, int] = {}
        special, swallowing = [], []
        for index, token in added.items():
            text = token.content
            written = text in template and not text[0].isalnum()
            is_special = token.special or text in names
            special += [text] if is_special else []
            # A token of one character cannot be broken, and white space steers nothing.
            if len(text) > 1 and not text.isspace() and (is_special or written):
                self.ids[text] = index
                swallowing += [text] if token.rstrip else []
        self._any = _pattern(self.ids)
        self.special = tuple(special)
        self._special = _pattern(special)
        self._all, self._swallowing = tuple(self.ids), tuple(swallowing)

    def spelled(self, segments: Sequence[Segment]) -> list[int]:
        """Where the joined segments spell control tokens out that no author wrote as such."""
        text = "".join(segment.text for segment in segments)
        if self._any is None or self._any.search(text) is None:
            return []
        authored = [False] * len(text)
        place = 0
        for segment in segments:
            end = place + len(segment.text)
            authored[place:end] = [segment.authored] * len(segment.text)
            place = end
        places = []
        found = self._any.search(text)
        while found is not None:
            if not all(authored[found.start() : found.end()]):
                places.append(found.start())
            # Those that overlap count, too.
            found = self._any.search(text, found.start() + 1)
        return places

    def at_start(self, text: str) -> int | None:
        """The control token that a text begins with."""
        found = None if self._any is None else self._any.match(text)
        return None if found is None else self.ids[found.group()]

    def at_end(self, text: str) -> str:
        """The control token that a text ends with, and white space that it swallows; or ''."""
        for end, tokens in ((text, self._all), (text.rstrip(), self._swallowing)):
            if end.endswith(tokens):
                token = max(filter(end.endswith, tokens), key=len)
                return text[len(end) - len(token) :]
        return ""

    def has_special(self, text: str) -> bool:
        """Whether a text spells a special token out, which decoding leaves out."""
        return self._special is not None and self._special.search(text) is not None

    def without_special(self, text: str) -> str:
        """A text without the special tokens in it."""
        return text if self._special is None else self._special.sub("", text)


def _pattern(tokens: Sequence[str] | dict[str, int]) -> re.Pattern[str] | None:
    """Matches any of the tokens, the longest first."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
