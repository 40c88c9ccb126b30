"""Invented names, built from syllables. Every invented word belongs to one split alone."""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache

SPLITS = ("train", "test")

STARTS = """
    Ta Lo Mi Sa Ne Ko Ri Du Ve Ba Je Fi Ga Hae Lu Pe Zo Ya Wi Tre Bra Dre Fle Gra Kle Pli Sto Ske
    Thi Vra Que Ob Ul Im Yr El Ib Ov Un Ar
"""

ENDS = {
    "given": "vo rin mek dal su nu ril teb bel zo dor nik ka mos lia wen",
    "family": "vash brin dask quist mond stel lund pek zar nell grave tock wick sman ley rath",
    "town": "lda holm mouth by stad mar ville ford dorf port burg grad via haven field gate",
    "company": "tex corp dyne lux max nova plex soft tron vex xon zen gram bit link cell",
    "river": "nare lune vada gira sela mura dane rona thera wey zola brana kama neth rill sava",
    "work": "mir lith phon drell gorn lisk nax quor rell spin thorn vane wyn zeph bram fax",
}
"""How the invented words of each part of a name end, so that a town looks like a town."""

SHAPES = {
    "person": ("{given} {family}",),
    "town": ("{town}",),
    "company": ("{company}",),
    "river": ("{river}",),
    "painting": ("Blue {work}", "Red {work}", "Golden {work}", "Grey {work}"),
    "novel": ("The Last {work}", "The Silent {work}", "The Broken {work}", "The Hidden {work}"),
    "song": ("Dear {work}", "Sweet {work}", "Goodbye {work}", "Waiting for {work}"),
}
"""What the names of each kind of thing look like."""


def split_of(word: str) -> str:
    """The split that an invented word belongs to, whatever the settings: train or test."""
    return SPLITS[hashlib.blake2b(word.encode(), digest_size=8).digest()[0] % 2]


@cache
def vocabulary(part: str, split: str) -> tuple[str, ...]:
    """All words of a split that a part of a name (a key of ``ENDS``) may be."""
    words = (start + end for start in STARTS.split() for end in ENDS[part].split())
    return tuple(word for word in words if split_of(word) == split)


class Namer:
    """Gives things names that share no invented word with each other.

    Args:
        rng: chooses the words.
        split: whose words are taken.
    """

    def __init__(self, rng: random.Random, split: str) -> None:
        self.rng = rng
        self.split = split
        self.used: set[str] = set()

    def name(self, kind: str) -> str:
        """A new name for a thing of this kind (a key of ``SHAPES``)."""
        shape = self.rng.choice(SHAPES[kind])
        return re.sub(r"\{(\w+)\}", lambda match: self._word(match[1]), shape)

    def _word(self, part: str) -> str:
        words = vocabulary(part, self.split)
        word = self.rng.choice(words)
        while word in self.used:
            word = self.rng.choice(words)
        self.used.add(word)
        return word
