"""Post-processors: change predictions after all of them are made. Plugins bring them.

A post-processor may need more than the greedy episodes: it names nodes, and every alternative
output of theirs is played to the end of the flow, for the rollout's result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import FlowtuneError
from .example import Example

if TYPE_CHECKING:
    from .task import Task

ROLLOUTS = "rollouts"
"""The field of a prediction line with the rollouts of its example."""

EXAMPLE_ID = "example_id"
"""The field of a prediction line with the id of its example, where ``id`` is another one."""

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
        before = _ids(lines)
        lines = processor.apply(task, examples, lines, note)
        if _ids(lines) != before:
            raise FlowtuneError(
                f"post-processor '{processor.name}' did not keep the lines and their order; this"
                " is a mistake in its plugin"
            )
    return lines


def _ids(lines: Sequence[Line]) -> list[tuple[Any, Any]]:
    return [(line.get("id"), line.get(EXAMPLE_ID)) for line in lines]
