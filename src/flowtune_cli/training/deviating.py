"""A mini-batch is played and deviated from, by one process or by several.

Each process plays its share of the examples. How many rollouts an episode has is known once it was
played: with few examples a process, all first play their episodes, and then share out the steps to
deviate at. A rollout that turns out to have effects is played again where its episode was, which
has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from ..flow.deviation import Deviation, Trace
from ..learning.peers import Peers
from ..learning.shares import Work, assign
from ..runtime.deviation import Base
from ..runtime.second_play import Recorded
from .rollout_shares import expected_cost, owners, prompts_cost
from .session import Play, Session

EXAMPLES_A_PROCESS = 8
"""With more, shares are about even by themselves, and an episode's rollouts need not wait."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class _StepOf(NamedTuple):
    """A step to deviate at: the place of its example in the mini-batch, and its index."""

    place: int
    step: int


class Deviating:
    """Plays one mini-batch.

    Args:
        plays: all of the mini-batch, on each process.
        check: called now and then; may raise.
        on_episode: called as this process has played so many episodes of its own.
        records: whether episodes are to be played again.

    Attributes:
        played_by: for each play, the processes that played it or rollouts of it.
    """

    def __init__(
        self,
        session: Session,
        plays: Sequence[Play],
        peers: Peers,
        *,
        check: Callable[[], None],
        on_episode: Callable[[int], None],
        records: bool,
    ) -> None:
        self.session = session
        self.plays = plays
        self.peers = peers
        self.check = check
        self.on_episode = on_episode
        self.records = records
        self._owners = owners([play.example.inputs for play in plays], peers.size)
        self._own = [place for place, rank in enumerate(self._owners) if rank == peers.rank]
        self.played_by = [{rank} for rank in self._owners]

    def traces(self) -> tuple[list[Trace], list[Recorded]]:
        """The traces of all, in the order of the plays, on each process.

        Returns:
            If it records, also what it takes to play the episodes without a failure again.
        """
        few = len(self.plays) <= EXAMPLES_A_PROCESS * self.peers.size
        if self.peers.size > 1 and few and self.session.explorations:
            traces, recorded = self._with_rollouts_shared()
        else:
            found = self._all(self._whole)
            traces = [trace for trace, _ in found]
            recorded = [again for _, again in found]
        for trace in traces:
            for run in trace.runs:
                run.nodes = self.session.task.nodes_by_name
        return traces, [again for again in recorded if again is not None]

    def _all(self, work: Callable[[], dict[int, Value]]) -> list[Value]:
        """What all processes have found, by the places of examples; in their order."""
        found = _joined(self.peers.each(work))
        return [found[place] for place in range(len(self.plays))]

    def _recorded(self, trace: Trace | Base) -> Recorded | None:
        if not self.records or trace.episode.failure is not None:
            return None
        return Recorded.of(trace.episode)

    # At once

    def _whole(self) -> dict[int, tuple[Trace, Recorded | None]]:
        """This process's examples."""
        self.check()  # a flow may ask the engine for nothing
        found: dict[int, tuple[Trace, Recorded | None]] = {}
        plays = [self.plays[place] for place in self._own]
        for number, trace in self.session.deviate_plays(plays, self.check):
            found[self._own[number]] = trace, self._recorded(trace)
            self.on_episode(len(found))
        return found

    # First the episodes, then their rollouts

    def _with_rollouts_shared(self) -> tuple[list[Trace], list[Recorded | None]]:
        own: dict[int, Base] = {}
        played = self._all(partial(self._bases, own))
        bases = [base for base, _ in played]
        for base in bases:
            base.episode.nodes = self.session.task.nodes_by_name
        wanted = [_StepOf(place, step) for place, base in enumerate(bases) for step in base.steps]
        ranks = assign([self._rollouts(bases[at.place], at) for at in wanted], self.peers.size)
        for at, rank in zip(wanted, ranks, strict=True):
            self.played_by[at.place].add(rank)
        mine = [at for at, rank in zip(wanted, ranks, strict=True) if rank == self.peers.rank]
        # An episode of this process is the one whose prompts it has read, and whose effects it has.
        at_hand = [own.get(place, base) for place, base in enumerate(bases)]
        found = _joined(self.peers.each(partial(self._deviations, at_hand, mine)))
        left = [at for at in wanted if at not in found]
        if left:
            mine = [at for at in left if at.place in own]
            found |= _joined(self.peers.each(partial(self._deviations, at_hand, mine)))
        traces = [
            base.trace(
                self.session.task,
                [each for step in base.steps for each in found[_StepOf(place, step)]],
            )
            for place, base in enumerate(bases)
        ]
        return traces, [recorded for _, recorded in played]

    def _bases(self, own: dict[int, Base]) -> dict[int, tuple[Base, Recorded | None]]:
        """This process's episodes, which are added to ``own``."""
        self.check()
        plays = [self.plays[place] for place in self._own]
        for number, base in self.session.play_bases(plays, self.check):
            own[self._own[number]] = base
            self.on_episode(len(own))
        return {place: (base, self._recorded(base)) for place, base in own.items()}

    def _rollouts(self, base: Base, at: _StepOf) -> Work:
        """All rollouts from a step, where the episode's prompts are read already."""
        episode = base.episode
        return Work(
            expected_cost(self.session.task, episode, episode.steps[at.step]),
            {at.place: prompts_cost(episode)},
            self._owners[at.place],
            may_move=not base.has_effects,
        )

    def _deviations(
        self, bases: Sequence[Base], steps: Sequence[_StepOf]
    ) -> dict[_StepOf, list[Deviation]]:
        """Deviate at these steps; those are missing whose episode's process has to."""
        self.check()
        by_place: dict[int, list[int]] = {}
        for place, step in steps:
            by_place.setdefault(place, []).append(step)
        places = list(by_place)
        parts = []
        for place in places:
            effects = self.plays[place].effects
            if place not in self._own:
                effects.elsewhere = True
                effects.ends |= bases[place].rewards
            parts.append((bases[place], by_place[place], effects))
        found: dict[_StepOf, list[Deviation]] = {}
        for number, deviations in self.session.deviate_from(parts, self.check):
            place = places[number]
            if self.plays[place].effects.wanted:
                continue
            found |= {_StepOf(place, step): [] for step in by_place[place]}
            for deviation in deviations:
                found[_StepOf(place, deviation.step)].append(deviation)
        return found


def _joined(each: Sequence[dict[Key, Value]]) -> dict[Key, Value]:
    found: dict[Key, Value] = {}
    for of_one in each:
        found |= of_one
    return found
