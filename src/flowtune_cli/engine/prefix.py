"""A prompt that the model has read: the keys and values of its tokens, for others to follow.

Prompts that begin alike share what was computed for their beginning: a prefix may hold its last
tokens alone, after some of the tokens of another prefix.
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
            beginning that was read for the sake of longer prompts.
        own: keys and values of the tokens after ``shared``; shape (layers, 2, key-value heads,
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

    def keys_values(self, layer: int) -> Tensor:
        """Of all its tokens: shape (2, 1, key-value heads, length, head size)."""
        assert self.own is not None
        own = self.own[layer]
        if self.parent is None:
            return own[:, None]
        whole = own.new_empty((*own.shape[:2], self.length, own.shape[-1]))
        self.copy_to(whole, layer)
        return whole[:, None]

    def copy_to(self, target: Tensor, layer: int | slice = slice(None)) -> None:
        """Copy the keys and values of all its tokens, of one layer or all.

        Args:
            target: shape (..., length, head size), what comes before as in ``own[layer]``.
        """
        assert self.own is not None
        if self.parent is not None:
            self.parent.truncated(self.shared).copy_to(target[..., : self.shared, :], layer)
        target[..., self.shared :, :] = self.own[layer]

    def parts(self, length: int | None = None) -> list[tuple[Tensor, int]]:
        """Where the keys and values of its first tokens lie, from the first on; all if None.

        Returns:
            What its ancestors and it hold of their own (see ``own``), and how many of the tokens
            there are meant, from the first on.
        """
        length = self.length if length is None else length
        if self.parent is not None and length <= self.shared:
            return self.parent.parts(length)
        assert self.own is not None
        before = [] if self.parent is None else self.parent.parts(self.shared)
        return [*before, (self.own, length - self.shared)]

    def truncated(self, length: int) -> Prefix:
        """Its first tokens, without logits; nothing is copied."""
        if length == self.length:
            return self
        if self.parent is not None and length <= self.shared:
            return self.parent.truncated(length)
        assert self.own is not None
        own = self.own[..., : length - self.shared, :]
        return Prefix(length, None, own, self.parent, self.shared)
