"""Play an example: run the flow once, and again from each alternative output."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast

from ..flow.episode import Episode, Failure, Step
from ..flow.errors import FlowtuneError, ReplayError
from ..flow.example import Example
from ..flow.node import Exploration
from ..flow.task import Task
from .effects import Effects
from .event_loop import running_loop
from .flow_run import FlowRun
from .recording import Recording
from .replay import Plan, Replay, Seed
from .scheduler import gather

CURRENT_EPISODE: ContextVar[Episode | None] = ContextVar("current_episode", default=None)
"""The episode whose flow runs: in its own tasks, and in threads of ``asyncio.to_thread``."""


async def play(
    task: Task,
    example: Example,
    *,
    plan: Plan | None = None,
    seed: Seed = 0,
    effects: Effects | None = None,
    replay_type: Callable[..., Replay] = Replay,
) -> Episode:
    """Run the flow once. An exception inside the flow is recorded as the episode's failure.

    Args:
        plan: what is replayed, substituted and explored; None plays greedily.
        effects: those of the episode that is replayed.
        replay_type: makes what answers the flow's calls.
    """
    plan = plan or Plan()
    run = FlowRun(running_loop().limits)
    replay = replay_type(plan, seed, Effects() if effects is None else effects, run)
    is_rollout = plan.substitute is not None
    episode = Episode(example, task.nodes_by_name, replay, is_rollout=is_rollout)
    token = CURRENT_EPISODE.set(episode)
    try:
        episode.result = await run.run(cast(Any, task.run(episode, example)))
        if run.failure is not None:
            raise run.failure
        if not episode.stopped_early:
            replay.check_complete(episode)
            episode.check_awaited()
    except asyncio.CancelledError as error:
        if running_loop().closing:
            raise
        # A task that the flow itself has cancelled, and awaited.
        episode.failure = Failure.of(error)
    except Exception as error:
        fatal = _fatal(error)
        if fatal is not None:
            raise fatal from None
        episode.failure = Failure.of(error)
    finally:
        with suppress(ValueError):  # thrown away, it is closed in whatever context that is done
            CURRENT_EPISODE.reset(token)
    replay.finish(episode)
    return episode


def _fatal(error: BaseException) -> FlowtuneError | None:
    """The error that ends the run, also where a task group has raised it among others."""
    if isinstance(error, FlowtuneError):
        return None if isinstance(error, ReplayError) else error
    inner = (_fatal(each) for each in getattr(error, "exceptions", ()))
    return next((each for each in inner if each is not None), None)


async def roll_out(
    task: Task,
    example: Example,
    recording: Recording,
    step: Step,
    alternative: int,
    *,
    until: str | None = None,
    seed: Seed = 0,
    effects: Effects,
    ending: int = 0,
) -> Episode:
    """Reset the flow to a step, substitute an alternative output, and play on greedily.

    Args:
        recording: of the episode that the step is from.
        alternative: index into the step's ``response.outputs``; 0 is its own output.
        until: the reward whose report after the step, or for it, ends the rollout; None plays to
            the end.
        effects: those of the episode.
        ending: whose noise is drawn; 0 is the episode's.
    """
    plan = Plan(
        recording=recording,
        substitute=(step, alternative),
        until=until,
        ending=ending,
    )
    return await play(task, example, plan=plan, seed=seed, effects=effects)


def recording_of(episode: Episode) -> Recording:
    """What is replayed of an episode that was played."""
    assert isinstance(episode.runner, Replay)
    return episode.runner.recording


def alternatives(episode: Episode, nodes: Container[str]) -> list[tuple[Step, int]]:
    """Every alternative output of these nodes' steps: the step, and the output's index."""
    return [
        (step, alternative)
        for step in episode.steps
        if step.node in nodes
        for alternative in range(1, len(step.response.outputs))
    ]


async def play_with_rollouts(
    task: Task, example: Example, *, explorations: Mapping[str, Exploration], seed: int = 0
) -> tuple[Episode, list[dict[str, Any]]]:
    """Play an example greedily, and every alternative of some nodes to the end of the flow.

    Args:
        explorations: the strategies of the nodes whose alternatives are wanted, by node name.

    Returns:
        The greedy episode, and its rollouts in the form that ``PostProcessor.apply`` describes;
        none if the episode failed.
    """
    effects = Effects()
    plan = Plan(explorations=explorations)
    episode = await play(task, example, plan=plan, seed=seed, effects=effects)
    if episode.failure is not None:
        return episode, []
    tried = alternatives(episode, explorations)
    recording = recording_of(episode)
    rollouts = await gather(
        roll_out(task, example, recording, step, alternative, seed=seed, effects=effects)
        for step, alternative in tried
    )
    return episode, [
        {
            "node": step.node,
            "step": step.index,
            "alternative": alternative,
            "result": None if rollout.failure is not None else rollout.result,
        }
        for (step, alternative), rollout in zip(tried, rollouts, strict=True)
    ]
