"""Which process plays which rollouts: their episode's, unless another has much less to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..flow.episode import Episode, Step
from ..flow.task import Task

_DECODED = 20.0
"""What a decoded token costs, in tokens that are read."""

_MOVED = 1.2
"""How much dearer a rollout is where its episode's prompts were not read."""

_WORTH_IT = 0.02
"""Of what a process has to do on average: what moving a step's rollouts must save."""


@dataclass(frozen=True)
class Rollouts:
    """All rollouts from one step of an episode.

    Args:
        owner: the process that has played the episode.
        cost: what they are expected to take there.
        may_move: another process may play them.
    """

    owner: int
    cost: float
    may_move: bool


def expected_cost(task: Task, episode: Episode, step: Step) -> float:
    """What the rollouts from a step take, in tokens that are read: as much as what followed it."""
    node = task.node(step.node)
    later = [each for each in episode.steps if each.index > step.index]
    if node.evaluator is None and node.reward is not None:
        report = episode.reward_of(node.reward, step.index)
        if report is not None and not episode.judged_at_end(node.reward, step.index):
            later = [each for each in later if each.index < report.steps]
    tokens = sum(
        each.response.prompt_tokens + _DECODED * each.response.outputs[0].tokens for each in later
    )
    return (len(step.response.outputs) - 1) * (1.0 + tokens)


def share_out(rollouts: Sequence[Rollouts], processes: int) -> list[int]:
    """The process that plays each; all processes find the same."""
    ranks = [each.owner for each in rollouts]
    loads = [0.0] * processes
    for each in rollouts:
        loads[each.owner] += each.cost
    movable = {place for place, each in enumerate(rollouts) if each.may_move}
    least_gain = _WORTH_IT * sum(loads) / processes
    while True:
        most, least = loads.index(max(loads)), loads.index(min(loads))
        best, gain = None, least_gain
        for place in sorted(movable):
            cost = rollouts[place].cost
            then = max(loads[most] - cost, loads[least] + _MOVED * cost)
            if ranks[place] == most and loads[most] - then > gain:
                best, gain = place, loads[most] - then
        if best is None:
            return ranks
        movable.discard(best)
        loads[most] -= rollouts[best].cost
        loads[least] += _MOVED * rollouts[best].cost
        ranks[best] = least
