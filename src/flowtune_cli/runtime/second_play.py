"""Plays recorded episodes a second time, without a model, and says what was otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..flow.effect import EffectEnd, Key
from ..flow.episode import Episode
from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.request import Answer, Request
from ..flow.task import Task
from ..flow.value_digest import NoDigest, value_digest
from .effects import REWARD, Effects
from .event_loop import NO_LIMITS, EpisodeLimits
from .play import play
from .recording import Recording
from .replay import Plan, Replay
from .scheduler import Scheduler
from .tolerant_replay import Difference, TolerantReplay

LONGEST_SECONDS = 60.0
"""How long flows may take to be played again, all together; what takes longer is left out."""

_FACTS = ("result", "rewards", "targets")
Fact = tuple[str, str]


@dataclass(frozen=True)
class Recorded:
    """An episode that ended without a failure, as it is played again. It can be pickled if its
    example and what its nodes and effects returned can be.

    Args:
        effects: how they ended, by key.
        facts: the result, the rewards and the targets: how each is shown, and its digest.
        chance: see ``Episode.chance``.
    """

    example: Example
    recording: Recording
    effects: dict[Key, EffectEnd]
    facts: dict[str, Fact] = field(default_factory=dict)
    chance: str | None = None

    @classmethod
    def of(cls, episode: Episode) -> Recorded:
        """What was recorded of an episode that was played."""
        assert isinstance(episode.runner, Replay)
        # Plain rewards are computed anew: whether they come out the same is a fact, too.
        ends = episode.runner.effects.ends.items()
        effects = {key: end for key, end in ends if key[0] != REWARD}
        recording = episode.runner.recording
        return cls(episode.example, recording, effects, _facts(episode), episode.chance)

    def with_gold(self, gold: Any) -> Recorded:
        """The same with other labels: then the rewards are others, but no request should be."""
        return replace(self, example=replace(self.example, gold=gold), facts={})


class _Endless(Exception):
    """The time is up."""


class _NoEngine:
    """Nothing is asked of it."""

    def answer(self, requests: list[Request]) -> list[Answer]:
        raise AssertionError("a replay asked a node")


def play_again(
    task: Task,
    recorded: Sequence[Recorded],
    *,
    limits: EpisodeLimits = NO_LIMITS,
    seconds: float = LONGEST_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> list[list[Difference] | None]:
    """Play each episode again with the recorded answers; its differences, in their order.

    Args:
        limits: as the episodes were played with.
        check: called now and then while flows wait; may raise, which ends it.

    Returns:
        A list for each episode; None where it did not end in time.
    """
    end = time.monotonic() + seconds
    found: list[list[Difference] | None] = [None] * len(recorded)

    def check_time() -> None:
        check()
        if time.monotonic() > end:
            raise _Endless

    coroutines = (_played_again(task, each) for each in recorded)
    try:
        for position, differences in Scheduler(
            _NoEngine(), in_flight=len(recorded) or 1, check=check_time, limits=limits
        ).stream(coroutines):
            found[position] = differences
    except _Endless:
        pass
    return found


async def _played_again(task: Task, recorded: Recorded) -> list[Difference]:
    runs: list[TolerantReplay] = []

    def replay(*args: Any) -> TolerantReplay:
        runs.append(TolerantReplay(*args))
        return runs[-1]

    try:
        episode = await play(
            task,
            recorded.example,
            plan=Plan(recording=recorded.recording),
            effects=Effects(dict(recorded.effects)),
            replay_type=replay,
        )
        failure = None if episode.failure is None else episode.failure.traceback
    except FlowtuneError as error:
        episode, failure = None, str(error)
    differences = runs[0].differences
    if differences or not recorded.facts:
        return differences  # all else may be their consequence
    if failure is not None:
        return [Difference("failure", None, failure)]
    assert episode is not None
    now = _facts(episode)
    return [
        Difference(name, recorded.facts[name][0], now[name][0])
        for name in _FACTS
        if recorded.facts[name][1] != now[name][1]
    ]


def _facts(episode: Episode) -> dict[str, Fact]:
    facts = {}
    for name in _FACTS:
        value = getattr(episode, name)
        try:
            facts[name] = repr(value), value_digest(value)
        except NoDigest:  # nobody can tell whether it is the same
            facts[name] = repr(value), ""
    return facts
