"""A prompt that the model has read: the keys and values of its tokens, to be gone on from.

Prompts that begin alike share what was read of their beginning: a prefix may hold but its last
tokens, behind some of the tokens of another prefix.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """A prompt that was read.

    Args:
        length: tokens.
        logits: of the token that follows; shape (vocabulary,), the model's dtype. None for a
            beginning that was read for others' sake.
        own: keys and values of the tokens behind ``shared``; shape (layers, 2, key-value heads,
            length - shared, head size). None if not kept.
        parent: the prefix whose first ``shared`` tokens are this one's, too.
    """

    length: int
    logits: Tensor | None
    own: Tensor | None
    parent: Prefix | None = None
    shared: int = 0

    @property
    def bytes(self) -> int:
        """What it holds beside its parent."""
        return sum(t.nbytes for t in (self.logits, self.own) if t is not None)

    @property
    def keys_values(self) -> Tensor:
        """Of all its tokens: shape (layers, 2, key-value heads, length, head size)."""
        assert self.own is not None
        layers, two, heads, _, size = self.own.shape
        whole = self.own.new_empty((layers, two, heads, self.length, size))
        self.lay(whole)
        return whole

    def lay(self, into: Tensor) -> None:
        """Write the keys and values of all its tokens, shape (..., length, head size)."""
        assert self.own is not None
        if self.parent is not None:
            self.parent.beginning(self.shared).lay(into[..., : self.shared, :])
        into[..., self.shared :, :] = self.own

    def beginning(self, length: int) -> Prefix:
        """Its first tokens; nothing is copied."""
        if length == self.length:
            return self
        if self.parent is not None and length <= self.shared:
            return self.parent.beginning(length)
        assert self.own is not None
        own = self.own[..., : length - self.shared, :]
        return Prefix(length, None, own, self.parent, self.shared)
