"""assert_replays: a flow makes the same calls again when its nodes' outputs are the same."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any

from ..exploration import DiverseBeam
from ..flow.episode import Episode
from ..flow.errors import ReplayError
from ..flow.example import Example
from ..flow.request import Engine
from ..flow.task import Task
from ..runtime.effects import Effects
from ..runtime.play import alternatives, play, recording_of, roll_out
from ..runtime.replay import Plan
from .engine import ScriptedEngine
from .episodes import run


def assert_replays(
    task: Task, examples: Iterable[Example], engine: Engine | None = None, *, seed: int = 0
) -> None:
    """Assert that a flow depends on nothing but its example and its nodes' outputs.

    Plays each example, plays it again with the recorded outputs, and once more for every
    alternative output of every step. Something that changes more slowly than that, such as the
    date, is not noticed.

    Args:
        engine: answers the nodes; by default a ``ScriptedEngine`` without a script.

    Raises:
        AssertionError: the flow did not make the same calls again (the message has both prompts),
            or reported another result, reward or target; or it failed, or there are no examples.
    """
    engine = ScriptedEngine() if engine is None else engine
    explorations = {node.name: DiverseBeam() for node in task.nodes}
    none = True
    for example in examples:
        none = False
        where = f"task '{task.name}', example '{example.id}'"
        effects = Effects()

        def run_again(coroutine: Coroutine[Any, Any, Episode], where: str = where) -> Episode:
            episode = run(engine, coroutine)
            failure = episode.failure
            if failure is not None and failure.error.startswith(ReplayError.__name__):
                raise AssertionError(f"{where}: {failure.error}")
            return episode

        plan = Plan(explorations=explorations)
        episode = run_again(play(task, example, plan=plan, seed=seed, effects=effects))
        if episode.failure is not None:
            raise AssertionError(
                f"{where}: the flow failed, so nothing is known about its replay; pass an engine"
                f" whose outputs it can use.\n{episode.failure.traceback}"
            )
        recording = recording_of(episode)
        plan = Plan(recording=recording)
        again = run_again(play(task, example, plan=plan, seed=seed, effects=effects))
        _assert_same(where, episode, again)
        for step, alternative in alternatives(episode, explorations):
            run_again(
                roll_out(task, example, recording, step, alternative, seed=seed, effects=effects)
            )
    if none:
        raise AssertionError(f"task '{task.name}': there are no examples to replay")


def _assert_same(where: str, episode: Episode, again: Episode) -> None:
    if again.failure is not None:
        raise AssertionError(
            f"{where}: the flow failed when it was replayed, and not before.\n"
            f"{again.failure.traceback}"
        )
    if len(again.steps) > len(episode.steps):
        added = again.steps[len(episode.steps)]
        raise AssertionError(
            f"{where}: the flow did not replay: it ended after {len(episode.steps)} calls before,"
            f" and calls node '{added.node}' now.\n--- prompt now ---\n{added.prompt_text}"
        )
    for what in ("result", "rewards", "targets"):
        before, now = getattr(episode, what), getattr(again, what)
        if before != now:
            raise AssertionError(
                f"{where}: the flow made the same calls again, and has other {what}."
                " A flow must depend on nothing but its example and its nodes' outputs; wrap"
                " anything else in episode.effect(...)."
                f"\n--- recorded {what} ---\n{before!r}\n--- {what} now ---\n{now!r}"
            )
