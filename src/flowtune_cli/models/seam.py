"""Tokenises a text that continues another one, without what a tokenizer adds where texts begin.

Tokenizers made by SentencePiece put a space before the first word of a text, and those with
``add_prefix_space`` do, too. Such a text is therefore tokenised after a lead, which is then cut.
"""

from __future__ import annotations

from collections.abc import Callable

from ..flow.errors import UsageError

Ids = tuple[int, ...]

_LEADS = ("\ue000", "\n", ":", ")", "x", "。")
"""The first is no part of any word; a tokenizer may not know it, or take it for white space."""

_BEFORE = ("x:", "x\n", "one two")
_PROBES = (
    "Question",
    " Yes",
    "Yes",
    "\nQuestion",
    "\n\n",
    "  two",
    "10",
    " 1",
    "<",
    ".",
    "é",
    "|x|>",
)


class Seam:
    """Where a text continues another one.

    Args:
        encode: a text's token ids, without special tokens around it.
        decode: the text of token ids.
        name: of the model, for errors.

    Attributes:
        is_plain: whether texts have the same tokens wherever they stand.

    Raises:
        UsageError: the tokenizer gives no way to continue a text.
    """

    def __init__(
        self,
        encode: Callable[[str], Ids],
        decode: Callable[[Ids], str],
        name: str,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._name = name
        self._leads: list[tuple[str, Ids]] = []
        self.is_plain = self._holds("", ())
        if not self.is_plain:
            leads = [(lead, encode(lead)) for lead in _LEADS]
            # One that is unknown could be one token with what follows it.
            self._leads = [
                (lead, ids) for lead, ids in leads if lead in decode(ids) and self._holds(lead, ids)
            ]
            if not self._leads:
                raise UsageError(
                    f"the tokenizer of '{name}' changes a text that continues another one, so that"
                    " a prompt and what follows it do not make a text that the model knows; take"
                    " another model, or another version of its tokenizer"
                )
            self._decode_lead = encode("x")
            self._decode_skip = len(decode(self._decode_lead))

    @property
    def lead(self) -> str:
        """What a text that continues another one is tokenised after; empty where it is plain."""
        return self._leads[0][0] if self._leads else ""

    def encode(self, text: str) -> Ids:
        """Token ids of a text that continues an ordinary text.

        Raises:
            UsageError: the tokenizer gives no way to tell them.
        """
        if self.is_plain or not text:
            return self._encode(text)
        for lead, ids in self._leads:
            found = cut(self._encode, lead, ids, text)
            if found is not None:
                return found
        raise UsageError(
            f"the tokenizer of '{self._name}' cannot continue a text with {text[:80]!r}: it merges"
            " that with whatever comes before it"
        )

    def decode(self, ids: Ids) -> str:
        """The text of token ids that continue an ordinary text."""
        if self.is_plain:
            return self._decode(ids)
        return self._decode((*self._decode_lead, *ids))[self._decode_skip :]

    def _holds(self, lead: str, lead_ids: Ids) -> bool:
        """Whether texts that are tokenised after the lead continue others as they should."""
        for before in _BEFORE:
            begin = self._encode(before)
            for text in _PROBES:
                ids = cut(self._encode, lead, lead_ids, text)
                if ids is None:
                    return False
                if self._decode((*begin, *ids)) != self._decode(self._encode(before + text)):
                    return False
        return True


def cut(encode: Callable[[str], Ids], lead: str, lead_ids: Ids, text: str) -> Ids | None:
    """The tokens of a text after a lead; None if the lead's own tokens change before it."""
    ids = encode(lead + text)
    return ids[len(lead_ids) :] if ids[: len(lead_ids)] == lead_ids else None
