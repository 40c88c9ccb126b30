"""Deviations and preferences: how rollouts compared with their episode, and what that teaches."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .episode import Episode, Failure
from .example import Example
from .named import name_and_options
from .node import Ask, NodeOutput
from .task import Task


class Evaluator(Protocol):
    """Compares two episodes of one example, where there is no reward.

    Register a class with ``register_rewards``: it needs a ``name``, and its arguments defaults. A
    node whose setting ``evaluator`` names it is judged by it; options in that setting are passed
    as keyword arguments.
    """

    @property
    def name(self) -> str:
        """By which a node's setting ``evaluator`` names it."""

    def compare(
        self, ask: Ask, task: Task, example: Example, first: Episode, second: Episode
    ) -> Awaitable[float | None] | float | None:
        """By how much the second episode ended better than the first.

        It may be async and await anything, or a plain function, which runs in a thread and cannot
        ask the model. Comparisons run side by side, at most ``engine.effects`` of them and of the
        flows' effects at once; ``training.effect_timeout`` limits an attempt, and after an
        exception there are ``training.effect_retries`` further ones. Time and places are counted
        while it does not wait for ``ask``. What an evaluator found that waited for something else
        than the model is kept, and not asked again when the run is resumed.

        Args:
            ask: awaits the model: ``await ask(ScoreRequest(None, ...))`` scores with the base
                model.
            first, second: the greedy episode and the rollout of an alternative, both ended; where
                there are several endings, the two sides of one.

        Returns:
            A positive number if the second is better, a negative one if it is worse, 0 for a tie;
            it weights the preference. None if that cannot be told.

        Raises:
            FlowtuneError: it cannot work at all, as a setting is wrong; ends the run. Any other
                exception, or anything but a finite number or None returned, is the outcome
                ``EVALUATOR_FAILED``: nothing is learned from the rollout, and it counts as failed
                (``training.max_failures``).
        """


@dataclass(frozen=True)
class EvaluatorCall:
    """A prompt that an evaluator showed the model, and what came of it.

    Args:
        prompt: as the model saw it, chat template included.
        answers: the completions that were scored, or the texts that were generated, each with the
            model's log-probability in nats.
        dropped_tokens: how many tokens of the request's prompts were truncated to fit.
    """

    prompt: str
    answers: tuple[tuple[str, float], ...]
    dropped_tokens: int = 0


class Outcome(str, Enum):
    """How a rollout compared with its episode."""

    ALTERNATIVE_BETTER = "alternative better"
    GREEDY_BETTER = "greedy better"
    TIE = "tie"
    UNDEFINED = "undefined"
    FAILED = "failed"
    EVALUATOR_FAILED = "evaluator failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Deviation:
    """One alternative output at one step, and how it ended.

    Where flows sample, one alternative may be played to several endings, each with noise of its
    own, which the episode's side is played with, too: that makes a deviation each.

    Args:
        step: index of the step in the episode.
        alternative: index of the output in the step's response (1 is the first alternative).
        rollout: the replayed episode with the alternative substituted; None when skipped. Endings
            that do not depend on noise share one.
        outcome: how it compared.
        greedy_reward, alternative_reward: what was compared, where there is a reward.
        gain: alternative minus greedy; None if there is none to learn from.
        reason: why there is no gain.
        failure: of the evaluator; that of the flow is the rollout's.
        evaluator_calls: what the evaluator asked the model.
        ending: which one, from 0; that one has the episode's own noise.
        baseline: the episode's side of this ending; None is the episode itself.
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
    failure: Failure | None = None
    evaluator_calls: tuple[EvaluatorCall, ...] = ()
    ending: int = 0
    baseline: Episode | None = None


@dataclass(frozen=True)
class Preference:
    """A preference between two outputs of one node for the same input, weighted by the margin.

    The margin is the mean gain of the endings that could be compared, without its sign.
    """

    step: int
    node: str
    alternative: int
    chosen: NodeOutput
    rejected: NodeOutput
    margin: float


@dataclass
class Trace:
    """Everything that one example produced: the episode, its deviations, and the preferences."""

    example: Example
    episode: Episode
    deviations: list[Deviation] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)

    @property
    def runs(self) -> list[Episode]:
        """The episode and the rollouts that were played, each once."""
        found = {id(self.episode): self.episode}
        for deviation in self.deviations:
            for run in (deviation.rollout, deviation.baseline):
                if run is not None:
                    found[id(run)] = run
        return list(found.values())

    @property
    def failures(self) -> list[Failure]:
        """What failed: the flow or the evaluator, at most once for each of ``runs``."""
        found = [run.failure for run in self.runs] + [d.failure for d in self.deviations]
        return [failure for failure in found if failure is not None]


def wins_name(evaluator: str) -> str:
    """The name of the figure that says how often an evaluator judges in a flow's favour."""
    return f"{evaluator} wins"


def win(gain: float) -> float:
    """What a comparison counts for one side, given its gain over the other: 1, 1/2 or 0."""
    return 0.5 if not gain else float(gain > 0)


def greedy_wins(task: Task, trace: Trace) -> Mapping[str, float | None]:
    """How often an episode ended better than the alternatives to its outputs; ties count half.

    Where there is no reward, this shows whether a flow learns.

    Returns:
        By figure, one for each evaluator whose nodes deviated here; None if it could never tell.
    """
    wins: dict[str, list[float]] = {}
    for deviation in trace.deviations:
        evaluator = task.node(deviation.node).evaluator
        if evaluator is not None and deviation.outcome is not Outcome.SKIPPED:
            of_evaluator = wins.setdefault(wins_name(name_and_options(evaluator)[0]), [])
            if deviation.gain is not None:
                of_evaluator.append(win(-deviation.gain))
    return {name: sum(found) / len(found) if found else None for name, found in wins.items()}


def mean_gains(deviations: Sequence[Deviation]) -> dict[tuple[int, int], float]:
    """Each alternative's mean gain over its endings that could be compared.

    Returns:
        By step and alternative, in the order of the deviations; those without any gain are missing.
    """
    gains: dict[tuple[int, int], list[float]] = {}
    for deviation in deviations:
        if deviation.gain is not None:
            gains.setdefault((deviation.step, deviation.alternative), []).append(deviation.gain)
    return {key: sum(found) / len(found) for key, found in gains.items()}


def prefer(task: Task, episode: Episode, deviations: Sequence[Deviation]) -> list[Preference]:
    """The preferences between node outputs that deviations imply.

    Each mean gain other than zero makes a preference, weighted by its size. With ``pairs="best"``
    only a step's best alternative is compared with the greedy output.
    """
    by_step: dict[int, dict[int, float]] = {}
    for (index, alternative), gain in mean_gains(deviations).items():
        by_step.setdefault(index, {})[alternative] = gain
    preferences = []
    for index, gains in sorted(by_step.items()):
        step = episode.steps[index]
        if task.node(step.node).pairs == "best":
            best = max(gains, key=lambda alternative: (gains[alternative], -alternative))
            gains = {best: gains[best]}
        for alternative, gain in gains.items():
            if not gain:
                continue
            greedy, other = step.response.outputs[0], step.response.outputs[alternative]
            chosen, rejected = (other, greedy) if gain > 0 else (greedy, other)
            preferences.append(
                Preference(index, step.node, alternative, chosen, rejected, abs(gain))
            )
    return preferences
