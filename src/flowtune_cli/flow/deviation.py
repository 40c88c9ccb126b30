"""One-step deviations: from "this episode ended better" to "this node output is better".

The algorithm of the paper (section 2.2, figure 2) for one example: play it greedily; at each step
whose node learns from preferences put an alternative output in the place of the greedy one, play
on greedily to the end (or until the reward that the node is judged by is known), and compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from ..runtime.scheduler import ask, gather, until_parked
from .episode import Effects, Episode, Failure, Plan, Step
from .errors import FlowtuneError, ReplayError, unknown_name
from .example import Example
from .node import Ask, Exploration, NodeOutput
from .task import Task


class Evaluator(Protocol):
    """Prefers one of two episodes, where there is no reward."""

    @property
    def name(self) -> str: ...

    async def compare(
        self, ask: Ask, task: Task, example: Example, first: Episode, second: Episode
    ) -> float | None:
        """How much better the second ended than the first; None if that cannot be said."""


class Outcome(str, Enum):
    """How a rollout compared with its episode."""

    ALTERNATIVE_BETTER = "alternative better"
    GREEDY_BETTER = "greedy better"
    TIE = "tie"
    UNDEFINED = "undefined"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Deviation:
    """One alternative output at one step, and how it ended.

    Args:
        step: index of the step in the episode.
        alternative: index of the output in the step's response (1 is the first alternative).
        rollout: the replayed episode with the alternative in place; None when skipped.
        outcome: how it compared.
        greedy_reward, alternative_reward: what was compared, where there is a reward.
        gain: alternative minus greedy; None if undefined, failed or skipped.
        reason: why there is no gain, in words.
    """

    step: int
    node: str
    alternative: int
    rollout: Episode | None
    outcome: Outcome
    greedy_reward: float | None = None
    alternative_reward: float | None = None
    gain: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Preference:
    """A preference between two outputs of one node for the same input, weighted by the margin."""

    step: int
    node: str
    alternative: int
    chosen: NodeOutput
    rejected: NodeOutput
    margin: float


@dataclass
class Trace:
    """All that came of one example: the episode, its deviations, and the preferences."""

    example: Example
    episode: Episode
    deviations: list[Deviation] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)


async def play(
    task: Task,
    example: Example,
    *,
    explore: Mapping[str, Exploration] | None = None,
    seed: int = 0,
    effects: Effects | None = None,
    plan: Plan | None = None,
) -> Episode:
    """Run the flow once. An exception inside the flow is recorded as the episode's failure."""
    plan = plan or Plan(explore=explore or {})
    episode = Episode(example, task.nodes, plan=plan, seed=seed, effects=effects)
    try:
        episode.result = await until_parked(task.run(episode, example))
        expected = [*plan.replayed, *(plan.substitute[:1] if plan.substitute else ())]
        if len(episode.steps) < len(expected):
            missing = expected[len(episode.steps)]
            raise ReplayError(
                f"the flow did not replay: it ended after {len(episode.steps)} calls, and its step"
                f" {missing.index} called node '{missing.node}' before."
                f"\n--- recorded prompt ---\n{missing.shown}"
            )
    except ReplayError as error:
        episode.failure = Failure.of(error)
    except FlowtuneError:
        raise
    except Exception as error:
        episode.failure = Failure.of(error)
    return episode


async def deviate(
    task: Task,
    example: Example,
    *,
    explore: Mapping[str, Exploration],
    evaluators: Mapping[str, Evaluator],
    seed: int = 0,
) -> Trace:
    """Play an example, try one alternative output at each step, and say which was better.

    Args:
        explore: the exploration strategy of each node that deviates, by node name.
        evaluators: those that the task's nodes name.
    """
    episode = await play(task, example, seed=seed, plan=Plan(explore=explore, judged=True))
    trace = Trace(example, episode)
    if episode.failure is None:
        alternatives = [
            (step, number)
            for step in episode.steps
            if task.nodes[step.node].deviates
            for number in range(1, len(step.response.outputs))
        ]
        trace.deviations = await gather(
            _roll_out(task, episode, step, number, evaluators) for step, number in alternatives
        )
        trace.preferences = prefer(task, episode, trace.deviations)
    return trace


async def _roll_out(
    task: Task,
    episode: Episode,
    step: Step,
    number: int,
    evaluators: Mapping[str, Evaluator],
) -> Deviation:
    """Reset the flow to a step, put an alternative in, play on, and compare."""
    node = task.nodes[step.node]

    def outcome(outcome: Outcome, rollout: Episode | None, **more: Any) -> Deviation:
        return Deviation(step.index, step.node, number, rollout, outcome, **more)

    greedy: float | None = None
    if node.evaluator is not None:
        if node.evaluator not in evaluators:
            raise unknown_name("evaluator", node.evaluator, list(evaluators))
    else:
        assert node.reward is not None
        stated = episode.reward_after(node.reward, step.index)
        if stated is None or stated.value is None:
            what = "not stated" if stated is None else "undefined"
            return outcome(Outcome.SKIPPED, None, reason=f"{node.reward} is {what} here")
        greedy = stated.value

    output = step.response.outputs[number]
    plan = Plan(
        replayed=episode.steps[: step.index],
        substitute=(step, output),
        until=None if node.evaluator is not None else node.reward,
    )
    rollout = await play(
        task, episode.example, seed=episode.seed, effects=episode.effects, plan=plan
    )
    if rollout.failure is not None:
        return outcome(Outcome.FAILED, rollout, greedy_reward=greedy, reason=rollout.failure.error)

    value: float | None = None
    gain: float | None
    if node.evaluator is not None:
        evaluator = evaluators[node.evaluator]
        gain = await evaluator.compare(ask, task, episode.example, episode, rollout)
        reason = f"{node.evaluator} cannot say"
    else:
        assert node.reward is not None
        assert greedy is not None
        stated = rollout.reward_after(node.reward, step.index)
        value = stated.value if stated else None
        gain = None if value is None else value - greedy
        reason = f"{node.reward} is {'undefined' if stated else 'not stated'} in the rollout"
    if gain is None:
        return outcome(Outcome.UNDEFINED, rollout, greedy_reward=greedy, reason=reason)
    kind = Outcome.TIE
    if gain > 0:
        kind = Outcome.ALTERNATIVE_BETTER
    elif gain < 0:
        kind = Outcome.GREEDY_BETTER
    return outcome(kind, rollout, greedy_reward=greedy, alternative_reward=value, gain=gain)


def prefer(task: Task, episode: Episode, deviations: list[Deviation]) -> list[Preference]:
    """The preferences between node outputs that the deviations make.

    A difference makes a preference, weighted by its size; no difference makes none. With
    ``pairs="best"`` a step's best alternative alone is compared with the greedy output.
    """
    by_step: dict[int, list[Deviation]] = {}
    for deviation in deviations:
        if deviation.gain is not None:
            by_step.setdefault(deviation.step, []).append(deviation)
    preferences = []
    for index, candidates in sorted(by_step.items()):
        step = episode.steps[index]
        if task.nodes[step.node].pairs == "best":
            candidates = [max(candidates, key=lambda d: (d.gain or 0.0, -d.alternative))]
        for deviation in candidates:
            gain = deviation.gain
            if not gain:
                continue
            greedy = step.response.outputs[0]
            other = step.response.outputs[deviation.alternative]
            chosen, rejected = (other, greedy) if gain > 0 else (greedy, other)
            preferences.append(
                Preference(index, step.node, deviation.alternative, chosen, rejected, abs(gain))
            )
    return preferences
