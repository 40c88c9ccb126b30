"""One-step deviations: from "this episode ended better" to "this node output is better".

The algorithm of the paper (section 2.2, figure 2) for one example: play it greedily; at each step
whose node learns from preferences, substitute an alternative output, play on greedily to the end
(or until the node's reward is known), and compare the two endings.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from ..flow.deviation import Deviation, Evaluator, Outcome, Trace, prefer
from ..flow.effect import EffectEnd, Key
from ..flow.episode import Episode, RewardEvent, Step
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.node import Exploration, Node
from ..flow.task import Task
from .effects import Effects
from .endings import Endings
from .judging import compare
from .play import alternatives, play, recording_of
from .recording import Recording
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
    rollouts: int = 1,
    effects: Effects | None = None,
) -> Trace:
    """Play an example, try every alternative output at each step, and compare the endings.

    Args:
        explorations: the exploration strategy of each node that deviates, by node name.
        evaluators: that of each node that has one, by node name.
        deviations: at how many steps alternatives are tried, drawn by the seed; 0 is at all.
        rollouts: to how many endings each is played, where these depend on noise.
        effects: what is known of them already; None is nothing.
    """
    effects = Effects() if effects is None else effects
    base = await play_base(
        task, example, explorations=explorations, seed=seed, deviations=deviations, effects=effects
    )
    found = await deviate_at(
        task, base, base.steps, evaluators=evaluators, rollouts=rollouts, effects=effects
    )
    return base.trace(task, found)


@dataclass(frozen=True)
class Base:
    """An episode that was played, to deviate from. Pickled, it can be deviated from elsewhere.

    Args:
        recording: of the episode.
        seed: what it drew its noise from.
        steps: indices of those at which alternatives are tried, in order.
        has_effects: whether it or its rollouts have had any, as far as is known.
        rewards: what plain rewards returned.
    """

    episode: Episode
    recording: Recording
    seed: Seed
    steps: tuple[int, ...]
    has_effects: bool
    rewards: dict[Key, EffectEnd]

    def trace(self, task: Task, deviations: list[Deviation]) -> Trace:
        """The whole, with all deviations in the order of their steps."""
        preferences = prefer(task, self.episode, deviations)
        return Trace(self.episode.example, self.episode, deviations, preferences)


async def play_base(
    task: Task,
    example: Example,
    *,
    explorations: Mapping[str, Exploration],
    seed: Seed,
    deviations: int,
    effects: Effects,
) -> Base:
    """Play an example greedily, and choose the steps to deviate at; see ``deviate``."""
    plan = Plan(explorations=explorations, skip_undefined=True)
    episode = await play(task, example, plan=plan, seed=seed, effects=effects)
    steps: list[int] = []
    if episode.failure is None:
        deviating = {node.name for node in task.nodes if node.deviates}
        steps = _chosen(task, episode, deviating, seed, deviations)
    recording = recording_of(episode)
    return Base(episode, recording, seed, tuple(steps), effects.asked, effects.rewards)


async def deviate_at(
    task: Task,
    base: Base,
    steps: Sequence[int],
    *,
    evaluators: Mapping[str, Evaluator],
    rollouts: int,
    effects: Effects,
) -> list[Deviation]:
    """Try every alternative output at some of an episode's steps; see ``deviate``.

    Args:
        steps: their indices.
    """
    nodes = {base.episode.steps[index].node for index in steps}
    endings = Endings(task, base.episode, base.recording, base.seed, effects)
    found = await gather(
        _deviate_once(endings, step, alternative, evaluators, rollouts)
        for step, alternative in alternatives(base.episode, nodes)
        if step.index in steps
    )
    return [deviation for each in found for deviation in each]


def _chosen(
    task: Task, episode: Episode, deviating: Container[str], seed: Seed, most: int
) -> list[int]:
    """The steps at which alternatives are tried: first each node's number of them, then of all."""
    steps: dict[str, list[int]] = {}
    for step in episode.steps:
        if step.node in deviating and len(step.response.outputs) > 1:
            steps.setdefault(step.node, []).append(step.index)
    drawn: list[int] = []
    for node, of_node in steps.items():
        drawn += _draw(of_node, task.node(node).deviations, f"{seed}/{episode.example.id}/{node}")
    return sorted(_draw(drawn, most, f"{seed}/{episode.example.id}"))


def _draw(steps: Sequence[int], most: int, seed: str) -> Sequence[int]:
    if not most or len(steps) <= most:
        return steps
    return random.Random(f"{seed}/deviations").sample(steps, most)


@dataclass(frozen=True)
class _Deviating:
    """One alternative of an episode's step, with all that it takes to play and judge it.

    Args:
        greedy: the reward of the episode, where one judges the node.
        at_end: it is the reward's value over the whole episode.
    """

    endings: Endings
    step: Step
    alternative: int
    evaluator: Evaluator | None
    greedy: float | None
    at_end: bool

    @property
    def node(self) -> Node:
        node: Node = self.endings.task.node(self.step.node)
        return node

    @property
    def until(self) -> str | None:
        """The reward whose report ends a rollout."""
        return self.node.reward if self.evaluator is None and not self.at_end else None

    async def play(self, most: int) -> list[Deviation]:
        """The first ending, and the further ones if their noise can make a difference."""
        rollout = await self.endings.of_alternative(self.step, self.alternative, self.until)
        first = await self._judged(0, None, rollout)
        if most == 1:
            return [first]
        own = self.endings.draws(self.endings.episode, self.step, self.until)
        other = self.endings.draws(rollout, self.step, self.until)
        if not own and not other:
            return [first]
        further = await gather(
            self._ending(number, rollout, own=own, other=other) for number in range(1, most)
        )
        return [first, *further]

    async def _ending(self, number: int, first: Episode, *, own: bool, other: bool) -> Deviation:
        """A further ending; a side that draws nothing ends as it did the first time."""
        baseline, rollout = None, first
        if own:
            baseline = await self.endings.of_episode(self.step, self.until, number)
        if other:
            rollout = await self.endings.of_alternative(
                self.step, self.alternative, self.until, number
            )
        return await self._judged(number, baseline, rollout)

    async def _judged(self, number: int, baseline: Episode | None, rollout: Episode) -> Deviation:
        """Compare how a rollout ended with the episode's side."""
        side = self.endings.episode if baseline is None else baseline
        found = Deviation(
            self.step.index,
            self.step.node,
            self.alternative,
            rollout,
            Outcome.FAILED,
            greedy_reward=self.greedy if baseline is None else None,
            ending=number,
            baseline=baseline,
        )
        if rollout.failure is not None:
            return replace(found, reason=rollout.failure.error)
        if side.failure is not None:
            return replace(found, reason=f"the episode's own side failed: {side.failure.error}")
        if self.evaluator is not None:
            return await self._evaluated(self.evaluator, found, side, rollout)
        if baseline is not None:
            found = replace(found, greedy_reward=self._reward(baseline))
        value = self._reward(rollout)
        found = replace(found, alternative_reward=value)
        if value is None or found.greedy_reward is None:
            run, where = rollout, "in the rollout"
            if value is not None:
                run, where = side, "on the episode's side of this ending"
            what = "not reported" if self._report(run) is None else "undefined"
            reason = f"{self.node.reward} is {what} {where}"
            return replace(found, outcome=Outcome.UNDEFINED, reason=reason)
        return _compared(found, value - found.greedy_reward)

    async def _evaluated(
        self, evaluator: Evaluator, found: Deviation, first: Episode, second: Episode
    ) -> Deviation:
        ending = (str(found.ending),) if found.ending else ()
        comparison = await compare(
            evaluator,
            self.endings.task,
            first,
            second,
            effects=self.endings.effects,
            key=("evaluator", found.node, str(found.step), str(found.alternative), *ending),
        )
        found = replace(found, evaluator_calls=comparison.calls, failure=comparison.failure)
        if comparison.failure is not None:
            reason = f"{evaluator.name}: {comparison.failure.error}"
            return replace(found, outcome=Outcome.EVALUATOR_FAILED, reason=reason)
        if comparison.gain is None:
            reason = f"{evaluator.name} cannot tell"
            return replace(found, outcome=Outcome.UNDEFINED, reason=reason)
        return _compared(found, comparison.gain)

    def _report(self, run: Episode) -> RewardEvent | None:
        assert self.node.reward is not None
        deviated = next((s.index for s in run.steps if s.substituted), self.step.index)
        return run.judgement(self.node.reward, deviated, at_end=self.at_end)

    def _reward(self, run: Episode) -> float | None:
        report = self._report(run)
        return report.value if report else None


async def _deviate_once(
    endings: Endings,
    step: Step,
    alternative: int,
    evaluators: Mapping[str, Evaluator],
    rollouts: int,
) -> list[Deviation]:
    """Roll out one alternative, and compare how it ended with the episode."""
    node, episode = endings.task.node(step.node), endings.episode
    if node.evaluator is not None:
        if node.name not in evaluators:
            raise UsageError(f"node '{node.name}' was given no evaluator: {node.evaluator!r}")
        evaluator = evaluators[node.name]
        return await _Deviating(endings, step, alternative, evaluator, None, False).play(rollouts)
    assert node.reward is not None
    at_end = episode.judged_at_end(node.reward, step.index)
    reward = episode.judgement(node.reward, step.index, at_end=at_end)
    if reward is None or reward.value is None:
        what = "not reported" if reward is None else "undefined"
        reason = f"{node.reward} is {what} here"
        return [Deviation(step.index, step.node, alternative, None, Outcome.SKIPPED, reason=reason)]
    deviating = _Deviating(endings, step, alternative, None, reward.value, at_end)
    return await deviating.play(rollouts)


def _compared(found: Deviation, gain: float) -> Deviation:
    outcome = Outcome.TIE
    if gain > 0:
        outcome = Outcome.ALTERNATIVE_BETTER
    elif gain < 0:
        outcome = Outcome.GREEDY_BETTER
    return replace(found, outcome=outcome, gain=gain)
