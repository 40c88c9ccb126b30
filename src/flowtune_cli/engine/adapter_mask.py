"""Frozen prefixes in a plain forward: the beginnings of rows are read as by the base model alone.

In one pass an adapter's layers leave the first tokens of each row as the base model has them, and
change the others. So whatever a model keeps of the past, nothing has to go on from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..flow.errors import FlowtuneError


class _Pass(NamedTuple):
    """A forward pass over rows that begin with a frozen prefix.

    Args:
        columns: tokens that it reads of each row.
        length: tokens of each row that were read up to the last of these.
        hidden: tokens of each row that the adapter leaves.
    """

    rows: int
    columns: int
    length: int
    hidden: int


class AdapterMask:
    """Hides the beginnings of rows from the adapters of a model.

    Layers read the tokens of a pass, of shape (rows, columns, size), (rows * columns, size) or
    (rows, 1, columns, size). Some of those of latent attention read all that came before, too.

    Args:
        model: the base model, which is called with ``input_ids``.
        layers: those that adapters were put on.
    """

    def __init__(self, model: Any, layers: Sequence[LoraLayer]) -> None:
        self._model = model
        self._layers = layers
        self._hidden = 0
        self._length = 0
        self._pass: _Pass | None = None
        self._hooks: list[RemovableHandle] = []

    @contextmanager
    def hiding(self, length: int) -> Iterator[None]:
        """In this block, hide the first tokens of each row from adapters.

        A pass reads rows from their beginning on, or with a cache the one token that comes next.

        Args:
            length: how many tokens; 0 hides none.
        """
        if length and not self._hooks:
            # Models that share what they read never call these.
            self._hook()
        self._hidden, self._length = length, 0
        try:
            yield
        finally:
            self._hidden, self._pass = 0, None

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What a layer is to be run in now, and when it is computed again."""
        return nullcontext(), self._as_in(self._pass)

    @contextmanager
    def _as_in(self, one: _Pass | None) -> Iterator[None]:
        before, self._pass = self._pass, one
        try:
            yield
        finally:
            self._pass = before

    def _hook(self) -> None:
        self._hooks.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for layer in self._layers:
            for part in layer.lora_A.values():
                self._hooks.append(part.register_forward_hook(self._hide))

    def remove(self) -> None:
        """Leave the model as it was before."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, model: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Called before each forward pass."""
        self._pass = None
        if not self._hidden:
            return
        rows, columns = named["input_ids"].shape
        self._length = self._length + 1 if columns == 1 else columns
        self._pass = _Pass(rows, columns, self._length, self._hidden)

    def _hide(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Called after the first half of an adapter in each layer: nothing is left of a zero."""
        if self._pass is None:
            return None
        rows, columns, length, hidden = self._pass
        shape = output.shape[:-1]
        for begin, count in ((length - columns, columns), (0, length)):
            places = torch.arange(begin, begin + count, device=output.device)
            mask = (places < hidden)[:, None]
            if shape in ((rows, count), (rows, 1, count)):
                return output.masked_fill(mask, 0.0)
            if shape == (rows * count,):
                return output.unflatten(0, (rows, count)).masked_fill(mask, 0.0).flatten(0, 1)
        raise FlowtuneError(
            f"a layer with an adapter reads {tuple(shape)} in the place of {rows} rows of {columns}"
            " tokens, so none of them can be left to the base model"
        )
