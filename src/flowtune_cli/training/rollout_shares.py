"""What examples and rollouts take, by which processes share them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..flow.episode import Episode, Step
from ..flow.task import Task
from ..learning.shares import Work, assign

DECODED = 20.0
"""What a decoded token costs, in tokens that are read."""

ANEW = 0.25
"""The share of a rollout's prompts that its episode's have not had, in tokens."""


def owners(inputs: Sequence[Mapping[str, Any]], processes: int) -> list[int]:
    """The process that plays each example: all get about as much text, the longest go first."""
    return assign([Work(1 + _letters(each)) for each in inputs], processes)


def _letters(value: Any) -> int:
    """How many letters the texts in a value have: the same in all processes."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_letters, value.values()))
    return sum(map(_letters, value)) if isinstance(value, (list, tuple)) else 0


def expected_cost(task: Task, episode: Episode, step: Step) -> float:
    """What the rollouts from a step take, in tokens that are read: as much as what followed it."""
    node = task.node(step.node)
    later = [each for each in episode.steps if each.index > step.index]
    if node.evaluator is None and node.reward is not None:
        report = episode.reward_of(node.reward, step.index)
        if report is not None and not episode.judged_at_end(node.reward, step.index):
            later = [each for each in later if each.index < report.steps]
    tokens = sum(
        ANEW * each.response.prompt_tokens + DECODED * each.response.outputs[0].tokens
        for each in later
    )
    return (len(step.response.outputs) - 1) * (1.0 + tokens)


def prompts_cost(episode: Episode) -> float:
    """What it takes to read an episode's prompts, which mostly repeat one another, in tokens."""
    return max((float(step.response.prompt_tokens) for step in episode.steps), default=0.0)
