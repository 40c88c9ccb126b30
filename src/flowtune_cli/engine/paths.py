"""Ways to run a model: which of them the engine takes for the one at hand.

From fast to general, each of the ways to play:

- ``cascade``: the model's attention is replaced, so sequences read what they share once, in place.
- ``padded``: the model attends in its own way, to copies of the keys and values of what is shared.
- ``plain``: rows of one length by the model's own forward and cache; nothing is shared.
- ``uncached``: as ``plain``, but each token is decoded by reading the whole sequence again.

And to learn: ``packed`` reads what sequences share once, ``plain`` each sequence by itself. See
``proof`` for how one is chosen.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..models.split import split_devices
from .cascade import can_replace_attention
from .windows import bites, rope_switch

Playing = Literal["cascade", "padded", "plain", "uncached"]
Learning = Literal["packed", "plain"]

PLAYING: tuple[Playing, ...] = ("cascade", "padded", "plain", "uncached")
LEARNING: tuple[Learning, ...] = ("packed", "plain")

_OWN_CACHE = "each token is written by reading all before it: to go on from the model's own cache"
_WITHOUT: dict[Playing, str] = {
    "cascade": "what prompts share is copied for each of them: to read it in place",
    "padded": "each text is read by itself: to read once what prompts share",
    "plain": _OWN_CACHE,
}


@dataclass(frozen=True)
class Paths:
    """How a model is run.

    Args:
        playing: how it decodes and scores.
        learning: how log-likelihoods with gradients are computed.
        branches: whether sequences that part may share a row in learning: not where a window counts
            the columns between two tokens.
        longest: the longest sequence, in tokens, that these ways are right for; longer ones are
            played and learned by ``plain``. None if there is no such limit.
        cached_beyond: whether the model's own cache is right where a text crosses that length; else
            longer ones are decoded as ``uncached`` does.
        frozen_prefixes: whether a prompt's beginning can be read by the base model alone, in the
            slower ways as part of each text (see ``adapter_mask``).
        recomputing: whether layers can compute again in the backward pass.
        devices: over how many the model is split; what texts share can be read in place on one.
    """

    playing: Playing = "plain"
    learning: Learning = "plain"
    branches: bool = True
    longest: int | None = None
    cached_beyond: bool = True
    frozen_prefixes: bool = True
    recomputing: bool = True
    devices: int = 1

    @classmethod
    def by_config(cls, model: Any, context: int | None = None) -> Paths:
        """The fastest way that a model's configuration does not rule out; nothing is computed.

        Args:
            context: the longest sequence that it will read, in tokens.
        """
        windows = bites(model.config, context)
        devices = len(split_devices(model)) or 1
        playing: Playing = "padded"
        if devices == 1 and not windows and can_replace_attention(model):
            playing = "cascade"
        longest = rope_switch(model.config, context)
        return cls(playing, "packed", branches=not windows, longest=longest, devices=devices)

    def shares(self, length: int) -> bool:
        """Whether a sequence of this length is played by reading what it shares once."""
        return self.playing in ("cascade", "padded") and not self._beyond(length)

    def packs(self, length: int) -> bool:
        """Whether a sequence of this length is learned in a packed row."""
        return self.learning == "packed" and not self._beyond(length)

    def caches(self, length: int) -> bool:
        """Whether a sequence of this length is decoded with the model's own cache."""
        return self.playing != "uncached" and (self.cached_beyond or not self._beyond(length))

    def _beyond(self, length: int) -> bool:
        return self.longest is not None and length > self.longest

    @property
    def text(self) -> str:
        """For people, such as "cascade, learning packed"."""
        notes = [self.playing, f"learning {self.learning}", *self._beyond_text]
        if not self.frozen_prefixes:
            notes.append("no frozen prefixes")
        if self.devices > 1:
            notes.append(f"split over {self.devices} devices")
        return ", ".join(notes)

    @property
    def playing_text(self) -> str:
        """How it decodes and scores, such as "cascade"."""
        return ", ".join([self.playing, *self._beyond_text])

    @property
    def _beyond_text(self) -> list[str]:
        if self.longest is None:
            return []
        way = "plain" if self.cached_beyond else "uncached"
        return [f"{way} beyond {self.longest:,} tokens"]

    @property
    def without(self) -> str | None:
        """For people: what is done where this way to play is not right, and the beginning of why;
        None if nothing else is left."""
        if self.longest is not None and self.cached_beyond and self.playing != "uncached":
            return f"beyond {self.longest:,} tokens {_OWN_CACHE}"
        return _WITHOUT.get(self.playing)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
