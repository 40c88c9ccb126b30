"""Post-processors: plugins that change the predictions after all examples have been played.

A post-processor can name nodes whose alternative outputs it needs: each of these is played to the
end of the flow, and the lines have the results of these rollouts.
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
    """Changes the predictions of some tasks; an option ``--NAME`` of ``flowtune predict``.

    It is constructed without arguments.

    Class attributes:
        name: the name on the command line.
        tasks: the names of its tasks.
        nodes: where to deviate: each alternative that the exploration strategy of one of these
            nodes finds is played to the end of the flow, and the line has the results.
        order: post-processors are applied by ascending order, then by name.
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
        """The changed lines, in the same order; ``lines`` itself is not modified.

        Args:
            lines: one for each example, in their order: ``task.prediction``, ``task.scores`` and,
                if alternatives were played, the field ``rollouts``: a list of ``{"node", "step",
                "alternative", "result"}``, where ``result`` is what the flow returned, or None if
                it failed. The lines of ``flowtune postprocess`` may lack the last two.
            note: prints a message to the user.

        Raises:
            DataError: a line lacks a field that is needed; says what to do.
        """


def post_process(
    processors: Iterable[PostProcessor],
    task: Task,
    examples: Sequence[Example],
    lines: Sequence[Line],
    note: Callable[[str], None],
) -> Sequence[Line]:
    """Apply post-processors, sorted by their ``order`` and name.

    Raises:
        FlowtuneError: one of them lost lines or changed their order.
    """
    for processor in sorted(processors, key=lambda p: (p.order, p.name)):
        before = _ids(lines)
        lines = processor.apply(task, examples, lines, note)
        if _ids(lines) != before:
            raise FlowtuneError(
                f"post-processor '{processor.name}' changed the number or order of the lines; this"
                " is a bug in its plugin"
            )
    return lines


def _ids(lines: Sequence[Line]) -> list[tuple[Any, Any]]:
    return [(line.get("id"), line.get(EXAMPLE_ID)) for line in lines]
