"""Processes that train together, as threads: what goes round is pickled all the same."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from flowtune_cli.learning.peers import Alone, Peers

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


class ThreadPeers(Alone):
    """One of several, which meet by a barrier."""

    def __init__(self, rank: int, barrier: threading.Barrier, given: dict[int, bytes]) -> None:
        super().__init__()
        self.rank, self.size = rank, barrier.parties
        self._barrier = barrier
        self._given = given

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """See ``Peers``."""
        self._given[self.rank] = pickle.dumps(work())
        self._barrier.wait(30)
        found = [pickle.loads(self._given[rank]) for rank in range(self.size)]
        self._barrier.wait(30)
        return found

    def total(self, tensor: Tensor) -> Tensor:
        """See ``Peers``."""
        first, *others = self.each(lambda: tensor)
        return sum(others, first)


def on_threads(size: int, work: Callable[[Peers], Value]) -> list[Value]:
    """What each of so many does; raises what the first of them to fail raises."""
    barrier, given = threading.Barrier(size), dict[int, bytes]()
    found: dict[int, Value] = {}
    failed: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            found[rank] = work(ThreadPeers(rank, barrier, given))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [found[rank] for rank in range(size)]
