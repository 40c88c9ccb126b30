"""What ``episode.call`` returns: it is awaited once, and it is noticed where it is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .episode import Step


class NotAwaited(TypeError):
    """A call of a flow was used as if it were the call's result."""


class FlowCall(Coroutine[Any, Any, Any]):
    """A call that is made when it is awaited, or made a task of.

    Args:
        what: how messages name it.
        start: makes the call.
        begun: called with this when it is awaited.

    Attributes:
        step: the step that it has become, once it is answered; None for an effect.
        key: by which it is known in the episode and its rollouts, once it is made.
        place: the file and line of the flow that made it.
        from_outside: it came from another thread or process: which of two comes first is chance.
    """

    def __init__(
        self,
        what: str,
        start: Callable[[FlowCall], Coroutine[Any, Any, Any]],
        begun: Callable[[FlowCall], None],
    ) -> None:
        self.what = what
        self.step: Step | None = None
        self.key: tuple[str, ...] | None = None
        self.from_outside = False
        frame = sys._getframe(3)  # behind _made and the episode's method
        self.place = f"{frame.f_code.co_filename}, line {frame.f_lineno}"
        self._start = start
        self._begun = begun
        self._coroutine: Coroutine[Any, Any, Any] | None = None

    def _begin(self) -> Coroutine[Any, Any, Any]:
        if self._coroutine is None:
            self._begun(self)
            self._coroutine = self._start(self)
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        """See ``Coroutine``."""
        return self._begin().send(value)

    def throw(self, *error: Any) -> Any:
        """See ``Coroutine``."""
        return self._begin().throw(*error)

    def close(self) -> None:
        """See ``Coroutine``; one that was not awaited is not made any more."""
        self._begin().close()

    def not_awaited(self) -> NotAwaited:
        """The error that a forgotten ``await`` is."""
        return NotAwaited(f"{self.what} was not awaited: write 'await' before it ({self.place})")

    def __str__(self) -> str:
        raise self.not_awaited()

    def __format__(self, specification: str) -> str:
        raise self.not_awaited()

    def __repr__(self) -> str:
        return f"<{self.what}, {self.place}>"
