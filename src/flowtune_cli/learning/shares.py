"""Which process does what: all get about as much to do, and little is read twice."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .peers import Peers

_WORTH_IT = 0.02
"""Of what a process has to do on average: what moving a piece of work must save."""


@dataclass(frozen=True)
class Work:
    """A piece of work, which one process does.

    Args:
        cost: what it takes where all that it needs was read, in tokens that are read.
        needs: what has to be read for it, and what each of that takes.
        owner: the process that does it, unless another has much less to do; it has read what the
            work needs. None if there is no such process.
        may_move: another process may do it.
    """

    cost: float
    needs: Mapping[Hashable, float] = field(default_factory=dict)
    owner: int | None = None
    may_move: bool = True


class _Shares:
    """What each process has to do so far, and what it has read then."""

    def __init__(self, work: Sequence[Work], at_hand: Sequence[Container[Hashable]]) -> None:
        self.work = work
        self.ranks = [-1] * len(work)
        self.loads = [0.0] * len(at_hand)
        needs = {need for each in work for need in each.needs}
        self._readers: dict[Hashable, set[int]] = {
            need: {rank for rank, of_one in enumerate(at_hand) if need in of_one} for need in needs
        }
        self._movable: list[set[int]] = [set() for _ in at_hand]

    def unread(self, place: int, rank: int) -> float:
        """What a process would have to read for a piece of work."""
        needs = self.work[place].needs.items()
        return sum(cost for need, cost in needs if rank not in self._readers[need])

    def best(self, place: int) -> int:
        """Who has to read least for a piece of work, and of these who has least to do."""
        ranks = {self.loads.index(min(self.loads))}
        ranks.update(*(self._readers[need] for need in self.work[place].needs))
        return min(ranks, key=lambda rank: (self.unread(place, rank), self.loads[rank], rank))

    def add(self, place: int, rank: int) -> None:
        """Give a process a piece of work, which may move later."""
        work = self.work[place]
        self.loads[rank] += work.cost
        if work.owner != rank:
            self.loads[rank] += self.unread(place, rank)
        for need in work.needs:
            self._readers[need].add(rank)
        self.ranks[place] = rank
        if work.may_move:
            self._movable[rank].add(place)

    def even_out(self) -> None:
        """Move work from who has most to who has least, each piece once at most."""
        loads = self.loads
        least_gain = _WORTH_IT * sum(loads) / len(loads)
        while True:
            most, least = loads.index(max(loads)), loads.index(min(loads))
            best, gain, added = None, least_gain, 0.0
            for place in sorted(self._movable[most]):
                cost = self.work[place].cost
                there = cost + self.unread(place, least)
                saved = loads[most] - max(loads[most] - cost, loads[least] + there)
                # Of those that save as much, one for which least has to be read.
                if (saved, -there) > (gain, -added):
                    best, gain, added = place, saved, there
            if best is None:
                return
            loads[most] -= self.work[best].cost
            self.add(best, least)
            for of_one in (most, least):
                self._movable[of_one].discard(best)


def assign(
    work: Sequence[Work], processes: int, at_hand: Sequence[Container[Hashable]] | None = None
) -> list[int]:
    """The process that does each piece of work; all processes find the same.

    A piece goes to its owner, or to who has to read least for it, the dearest first, each to who
    has least to do so far. Then pieces move, while that makes the most that any has to do less.

    Args:
        at_hand: for each process, what it has read; nothing, if it is not given.
    """
    shares = _Shares(work, at_hand or [()] * processes)
    for place, each in enumerate(work):
        if each.owner is not None:
            shares.add(place, each.owner)
    free = [place for place, each in enumerate(work) if each.owner is None]
    for place in sorted(free, key=lambda place: -work[place].cost):
        shares.add(place, shares.best(place))
    shares.even_out()
    return shares.ranks


def share(
    work: Sequence[Work], peers: Peers, has_read: Callable[[Any], bool] = lambda need: False
) -> list[int]:
    """The places of the pieces of work that are this process's, see ``assign``.

    All processes call it with the same work, what is needed in the same order.

    Args:
        has_read: whether this process has read what a piece of work needs.
    """
    at_hand: list[set[Hashable]] | None = None
    needs = list(dict.fromkeys(need for each in work for need in each.needs))
    if needs:
        # Numbers go round, as what is needed may be long.
        each = peers.each(lambda: [n for n, need in enumerate(needs) if has_read(need)])
        at_hand = [{needs[number] for number in of_one} for of_one in each]
    ranks = assign(work, peers.size, at_hand)
    return [place for place, rank in enumerate(ranks) if rank == peers.rank]
