"""Which process plays which examples and rollouts: its own, unless another has much less to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..flow.episode import Episode, Step
from ..flow.task import Task
from ..learning.peers import assign

DECODED = 20.0
"""What a decoded token costs, in tokens that are read."""

ANEW = 0.25
"""The share of a rollout's prompts that its episode's have not had, in tokens."""

_WORTH_IT = 0.02
"""Of what a process has to do on average: what moving a step's rollouts must save."""


@dataclass(frozen=True)
class Rollouts:
    """All rollouts from one step of an episode.

    Args:
        example: the place of the episode in the mini-batch.
        owner: the process that has played the episode.
        cost: what they are expected to take there, in tokens that are read.
        read: what it takes to read the episode's prompts, where no rollout of it is played yet.
        may_move: another process may play them.
    """

    example: int
    owner: int
    cost: float
    read: float
    may_move: bool


def owners(inputs: Sequence[Mapping[str, Any]], processes: int) -> list[int]:
    """The process that plays each example: all get about as much text, the longest go first."""
    return assign([1 + _letters(each) for each in inputs], processes)


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


def share_out(rollouts: Sequence[Rollouts], processes: int) -> list[int]:
    """The process that plays each; all processes find the same."""
    ranks = [each.owner for each in rollouts]
    loads = [0.0] * processes
    for each in rollouts:
        loads[each.owner] += each.cost
    has_read = {(each.example, each.owner) for each in rollouts}
    movable = {place for place, each in enumerate(rollouts) if each.may_move}
    least_gain = _WORTH_IT * sum(loads) / processes
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        best, gain, added = None, least_gain, 0.0
        for place in sorted(movable):
            each = rollouts[place]
            there = each.cost + (0.0 if (each.example, least) in has_read else each.read)
            saved = loads[most] - max(loads[most] - each.cost, loads[least] + there)
            # Of those that save as much, one for which least has to be read.
            if ranks[place] == most and (saved, -there) > (gain, -added):
                best, gain, added = place, saved, there
        if best is None:
            return ranks
        movable.discard(best)
        has_read.add((rollouts[best].example, least))
        loads[most] -= rollouts[best].cost
        loads[least] += added
        ranks[best] = least
