"""One-step deviations: from "this episode ended better" to "this node output is better".

The algorithm of the paper (section 2.2, figure 2) for one example: play it greedily; at each step
whose node learns from preferences, substitute an alternative output, play on greedily to the end
(or until the node's reward is known), and compare the two endings.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ..flow.deviation import Deviation, Evaluator, Outcome, Trace, prefer
from ..flow.episode import Episode, Step
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.node import Exploration
from ..flow.task import Task
from .effects import Effects
from .judging import compare
from .play import alternatives, play, roll_out
from .replay import Plan, Seed
from .scheduler import gather


async def deviate(
    task: Task,
    example: Example,
    *,
    explorations: Mapping[str, Exploration],
    evaluators: Mapping[str, Evaluator],
    seed: Seed = 0,
    deviations: int = 0,
    effects: Effects | None = None,
) -> Trace:
    """Play an example, try every alternative output at each step, and compare the endings.

    Args:
        explorations: the exploration strategy of each node that deviates, by node name.
        evaluators: that of each node that has one, by node name.
        deviations: at how many steps alternatives are tried, drawn by the seed; 0 is at all.
        effects: what is known of them already; None is nothing.
    """
    effects = Effects() if effects is None else effects
    plan = Plan(explorations=explorations, skip_undefined=True)
    episode = await play(task, example, plan=plan, seed=seed, effects=effects)
    trace = Trace(example, episode)
    if episode.failure is None:
        deviating = {node.name for node in task.nodes if node.deviates}
        chosen = _chosen(task, episode, deviating, seed, deviations)
        trace.deviations = await gather(
            _deviate_once(task, episode, step, alternative, evaluators, seed, effects)
            for step, alternative in alternatives(episode, deviating)
            if step.index in chosen
        )
        trace.preferences = prefer(task, episode, trace.deviations)
    return trace


def _chosen(
    task: Task, episode: Episode, deviating: Container[str], seed: Seed, most: int
) -> set[int]:
    """The steps at which alternatives are tried: first each node's number of them, then of all."""
    steps: dict[str, list[int]] = {}
    for step in episode.steps:
        if step.node in deviating and len(step.response.outputs) > 1:
            steps.setdefault(step.node, []).append(step.index)
    drawn: list[int] = []
    for node, of_node in steps.items():
        drawn += _draw(of_node, task.node(node).deviations, f"{seed}/{episode.example.id}/{node}")
    return set(_draw(drawn, most, f"{seed}/{episode.example.id}"))


def _draw(steps: Sequence[int], most: int, seed: str) -> Sequence[int]:
    if not most or len(steps) <= most:
        return steps
    return random.Random(f"{seed}/deviations").sample(steps, most)


async def _deviate_once(
    task: Task,
    episode: Episode,
    step: Step,
    alternative: int,
    evaluators: Mapping[str, Evaluator],
    seed: Seed,
    effects: Effects,
) -> Deviation:
    """Roll out one alternative, and compare how it ended with the episode."""
    node = task.node(step.node)
    evaluator: Evaluator | None = None
    greedy: float | None = None
    at_end = False

    def deviation(outcome: Outcome, rollout: Episode | None, **more: Any) -> Deviation:
        return Deviation(
            step.index, step.node, alternative, rollout, outcome, greedy_reward=greedy, **more
        )

    if node.evaluator is not None:
        if node.name not in evaluators:
            raise UsageError(f"node '{node.name}' was given no evaluator: {node.evaluator!r}")
        evaluator = evaluators[node.name]
    else:
        assert node.reward is not None
        at_end = episode.judged_at_end(node.reward, step.index)
        reward = episode.judgement(node.reward, step.index, at_end=at_end)
        if reward is None or reward.value is None:
            what = "not reported" if reward is None else "undefined"
            return deviation(Outcome.SKIPPED, None, reason=f"{node.reward} is {what} here")
        greedy = reward.value

    until = node.reward if evaluator is None and not at_end else None
    rollout = await roll_out(
        task, episode, step, alternative, until=until, seed=seed, effects=effects
    )
    if rollout.failure is not None:
        return deviation(Outcome.FAILED, rollout, reason=rollout.failure.error)

    value: float | None = None
    gain: float | None
    judged: dict[str, Any] = {}
    if evaluator is not None:
        comparison = await compare(
            evaluator,
            task,
            episode,
            rollout,
            effects=effects,
            key=("evaluator", node.name, str(step.index), str(alternative)),
        )
        judged = {"evaluator_calls": comparison.calls, "failure": comparison.failure}
        if comparison.failure is not None:
            reason = f"{evaluator.name}: {comparison.failure.error}"
            return deviation(Outcome.EVALUATOR_FAILED, rollout, reason=reason, **judged)
        gain = comparison.gain
        reason = f"{evaluator.name} cannot tell"
    else:
        assert node.reward is not None
        assert greedy is not None
        deviated = next((s.index for s in rollout.steps if s.substituted), step.index)
        reward = rollout.judgement(node.reward, deviated, at_end=at_end)
        value = reward.value if reward else None
        gain = None if value is None else value - greedy
        reason = f"{node.reward} is {'undefined' if reward else 'not reported'} in the rollout"
    if gain is None:
        return deviation(Outcome.UNDEFINED, rollout, reason=reason, **judged)
    outcome = Outcome.TIE
    if gain > 0:
        outcome = Outcome.ALTERNATIVE_BETTER
    elif gain < 0:
        outcome = Outcome.GREEDY_BETTER
    return deviation(outcome, rollout, alternative_reward=value, gain=gain, **judged)
