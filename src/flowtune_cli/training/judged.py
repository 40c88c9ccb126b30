"""Evaluators compare how flows ended on the same examples, where there is no reward."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..flow.deviation import Evaluator
from ..flow.episode import Episode, Failure
from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.task import Task
from ..runtime.effects import Effects
from ..runtime.judging import compare
from .session import Session


def _not_kept(what: str) -> Any:
    def refuse(episode: Episode) -> Any:
        raise UsageError(
            f"the evaluator looks at an episode's {what}, which are not kept where whole flows are"
            " compared: it can compare results alone"
        )

    return property(refuse, lambda episode, value: None)


class Outcome(Episode):
    """How an episode ended: its result. An evaluator that asks for more is told."""

    steps: Any = _not_kept("steps")
    effects: Any = _not_kept("effects")
    targets: Any = _not_kept("targets")


def evaluators_by_name(of_nodes: Iterable[tuple[str, Evaluator]]) -> dict[str, Evaluator]:
    """Evaluators by their names; one that several nodes share once.

    Args:
        of_nodes: each node's name with its evaluator.
    """
    found: dict[str, Evaluator] = {}
    for node, evaluator in of_nodes:
        if not any(evaluator == other for other in found.values()):
            taken = evaluator.name in found
            found[f"{evaluator.name} of {node}" if taken else evaluator.name] = evaluator
    return found


def judge(
    session: Session,
    evaluator: Evaluator,
    examples: Sequence[Example],
    first: Mapping[int, Any],
    second: Mapping[int, Any],
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[int, float], list[Failure]]:
    """By how much a flow ended better than another.

    Equal results are a tie, and nobody is asked. For half of the examples, told by their ids, the
    evaluator is shown the flows the other way round, so one that prefers the first or the second
    place favours neither flow.

    Args:
        first, second: the flows' results, by the number of the example.
        check: called between the engine's calls; may raise.

    Returns:
        The second flow's gains, by the number of the example, where the evaluator can tell; and how
        it failed for others.
    """
    task = session.task
    both = sorted(first.keys() & second.keys())
    gains = {number: 0.0 for number in both if first[number] == second[number]}
    differ = [number for number in both if number not in gains]
    turned = [_is_turned(examples[number]) for number in differ]

    def sides(number: int, turn: bool) -> tuple[Outcome, Outcome]:
        results = (second, first) if turn else (first, second)
        one, other = (_outcome(task, examples[number], of[number]) for of in results)
        return one, other

    asked = (
        compare(evaluator, task, *sides(number, turn), effects=Effects(), key=("whole flows",))
        for number, turn in zip(differ, turned, strict=True)
    )
    failures: list[Failure] = []
    for position, comparison in session.scheduler(check).stream(asked):
        if comparison.gain is not None:
            sign = -1 if turned[position] else 1
            gains[differ[position]] = sign * comparison.gain
        if comparison.failure is not None:
            failures.append(comparison.failure)
    session.engine.forget()
    return gains, failures


def _is_turned(example: Example) -> bool:
    return bool(hashlib.sha256(str(example.id).encode("utf-8", "surrogatepass")).digest()[0] & 1)


def _outcome(task: Task, example: Example, result: Any) -> Outcome:
    outcome = Outcome(example, task.nodes_by_name)
    outcome.result = result
    return outcome
