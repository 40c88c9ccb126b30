"""The processes that train one run together, as the loop and the learner see them.

With one process they are ``ALONE``; ``training.ranks`` has those that meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..flow.errors import FlowtuneError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


class Stop(Exception):
    """Some process was asked to stop, so all do; raised by work, and then by all that meet."""


class PeerFailed(FlowtuneError):
    """Another process has failed or is lost; the message names it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Peers(Protocol):
    """Processes that do the same things in the same order, each with its share of the data.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
        patience: seconds to wait for a process that lives but does not come.
        stopping: tells whether this process was asked to stop.
    """

    rank: int
    size: int
    patience: float
    stopping: Callable[[], bool]

    def name(self, rank: int) -> str:
        """How errors name a process."""

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """What the work of each process gave, in the order of ranks, on all of them.

        Args:
            work: may differ by rank; what it gives is pickled. Long work calls ``check``.

        Raises:
            Stop: if it was raised by some work, on all.
            PeerFailed: the work of another failed, or it is lost. Where the work failed, its own
                error is raised.
        """

    def first(self, work: Callable[[], Value]) -> Value:
        """What the work of rank 0 gave, on all; the others wait. Raises as ``each``."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, of one shape and dtype; on its device."""

    def check(self) -> None:
        """Called now and then during work: raises if it is for nothing, as another has failed."""


class Alone:
    """A process without others."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.patience = 0.0
        self.stopping: Callable[[], bool] = lambda: False

    def name(self, rank: int) -> str:
        """See ``Peers``."""
        return "this process"

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """See ``Peers``."""
        return [work()]

    def first(self, work: Callable[[], Value]) -> Value:
        """See ``Peers``."""
        return work()

    def total(self, tensor: Tensor) -> Tensor:
        """See ``Peers``."""
        return tensor

    def check(self) -> None:
        """See ``Peers``."""


ALONE = Alone()
