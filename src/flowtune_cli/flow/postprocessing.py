"""Post-processors: change predictions once a flow has made them all. Plugins bring them.

A post-processor may ask for more than the greedy episodes: it names nodes, and each alternative
output of theirs is played to the end of the flow, so that it gets each rollout's result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..runtime.scheduler import gather
from .deviation import play
from .episode import Episode, Plan, Step
from .errors import FlowtuneError
from .example import Example
from .node import Exploration

if TYPE_CHECKING:
    from .task import Task

ROLLOUTS = "rollouts"
"""The field of a line that holds its example's rollouts."""

Line = Mapping[str, Any]


class PostProcessor(ABC):
    """Changes the predictions of some tasks. ``flowtune predict`` offers it as ``--NAME``.

    It is made without arguments.

    Class attributes:
        name: by which the command line calls it.
        tasks: the names of the tasks that it is for.
        nodes: where to deviate: each alternative that the exploration strategy of one of these
            nodes finds is played to the end of the flow, and the line has the results.
        order: of several post-processors the lowest comes first, then the alphabet decides.
    """

    name: ClassVar[str]
    tasks: ClassVar[Sequence[str]]
    nodes: ClassVar[Sequence[str]] = ()
    order: ClassVar[int] = 0

    @abstractmethod
    def apply(
        self,
        task: Task,
        examples: Sequence[Example],
        lines: Sequence[Line],
        note: Callable[[str], None],
    ) -> Sequence[Line]:
        """The lines as they should be, in the same order; those given are not changed.

        Args:
            lines: one an example, in their order: ``task.prediction``, ``task.scores`` and, if
                alternatives were played, the field ``rollouts``: a list of ``{"node", "step",
                "alternative", "result"}``, where ``result`` is what the flow returned, or None if
                it failed. A file that is post-processed later may lack the last two.
            note: says something to the person at the command line.

        Raises:
            DataError: a line lacks what is needed; says what to do.
        """


def post_process(
    processors: Iterable[PostProcessor],
    task: Task,
    examples: Sequence[Example],
    lines: Sequence[Line],
    note: Callable[[str], None],
) -> Sequence[Line]:
    """Apply post-processors, in their own order whatever order they come in.

    Raises:
        FlowtuneError: one of them lost lines or changed their order.
    """
    for processor in sorted(processors, key=lambda p: (p.order, p.name)):
        before = [line.get("id") for line in lines]
        lines = processor.apply(task, examples, lines, note)
        if [line.get("id") for line in lines] != before:
            raise FlowtuneError(
                f"post-processor '{processor.name}' did not keep the lines and their order; this"
                " is a mistake in its plugin"
            )
    return lines


async def play_with_rollouts(
    task: Task, example: Example, *, explore: Mapping[str, Exploration], seed: int = 0
) -> tuple[Episode, list[dict[str, Any]]]:
    """Play an example greedily, and from each alternative of some nodes on to the end.

    Args:
        explore: the strategies of the nodes whose alternatives are wanted, and of no others.

    Returns:
        The greedy episode, and its rollouts as a line has them; none if the episode failed.
    """
    episode = await play(task, example, explore=explore, seed=seed)
    if episode.failure is not None:
        return episode, []
    alternatives = [
        (step, number)
        for step in episode.steps
        if step.node in explore
        for number in range(1, len(step.response.outputs))
    ]
    rollouts = await gather(
        play(
            task,
            example,
            seed=seed,
            effects=episode.effects,
            plan=_plan(episode, step, number),
        )
        for step, number in alternatives
    )
    return episode, list(_told(alternatives, rollouts))


def _plan(episode: Episode, step: Step, number: int) -> Plan:
    """Reset to a step and put an alternative in; without ``until`` nothing is cut short."""
    return Plan(
        replayed=episode.steps[: step.index], substitute=(step, step.response.outputs[number])
    )


def _told(
    alternatives: Sequence[tuple[Step, int]], rollouts: Sequence[Episode]
) -> Iterator[dict[str, Any]]:
    for (step, number), rollout in zip(alternatives, rollouts, strict=True):
        yield {
            "node": step.node,
            "step": step.index,
            "alternative": number,
            "result": None if rollout.failure is not None else rollout.result,
        }
