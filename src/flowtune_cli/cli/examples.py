"""Reads the examples of a command, and finds one by its id."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..flow.errors import DataError, UsageError, did_you_mean, unknown_name
from ..flow.example import Example
from ..flow.left_out import LeftOut, listed
from ..flow.postprocessing import EXAMPLE_ID, ROLLOUTS
from ..flow.surrogates import escaped
from ..flow.task import Task
from .output import note
from .phase import phase


def read_examples(task: Task, data: Path | None, split: str | None) -> Iterator[Example]:
    """The examples of a split, by default the task's first.

    Raises:
        UsageError: the task has no such split.
        DataError: the data cannot be read; says where.
    """
    split = chosen_split(task, split)
    task.left_out = LeftOut()
    try:
        for example in task.examples(data, split):
            _check_id(example, data or f"the data of task '{task.name}'")
            yield example
    except OSError as error:
        where = error.filename or data or f"the data of task '{task.name}'"
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        where = data or f"the data of task '{task.name}'"
        raise DataError(f"{where}: cannot be read as UTF-8: {error}") from error


def example_of_input(task: Task, text: str) -> Example:
    """The example of a user's own inputs: a JSON object, or "-" for one on standard input.

    Raises:
        UsageError: it is no JSON object, or not what the task wants.
    """
    where = "--input"
    if text == "-":
        text, where = sys.stdin.read(), "standard input"
    try:
        inputs = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON: {error}") from None
    if not isinstance(inputs, dict):
        raise UsageError(f'{where} must be a JSON object, such as {{"question": "..."}}')
    return task.example_from(inputs)


def read_training_examples(task: Task, data: Path | None, split: str | None) -> list[Example]:
    """The examples of a split that are trained on; prints a note if these are not all.

    Raises: as ``read_examples``.
    """
    split = chosen_split(task, split)
    total = 0

    def counted() -> Iterator[Example]:
        nonlocal total
        for example in read_examples(task, data, split):
            total += 1
            yield example

    source = counted()
    with phase("reading the data", silent=True):
        used = list(task.training_examples(source, split))
        for _ in source:  # where the task took only the first ones
            pass
    note_left_out(task)
    if len(used) < total:
        reason = task.training_filter or f"task '{task.name}' leaves the others out"
        note(f"training uses {len(used)} of the {total} examples of split '{split}': {reason}")
    return used


def chosen_split(task: Task, split: str | None) -> str:
    """``split``, or the task's first one.

    Raises:
        UsageError: the task has no such split.
    """
    if split is None:
        return task.splits[0]
    if split not in task.splits:
        raise unknown_name(f"split of task '{task.name}'", split, list(task.splits))
    return split


def first_examples(examples: Iterator[Example], limit: int | None) -> list[Example]:
    """The first ``limit`` examples; all if it is None.

    Raises:
        DataError: there are none, or several have one id.
    """
    with phase("reading the data", silent=True):
        found = list(islice(examples, limit))
    if not found:
        raise DataError("the data has no examples")
    counts = Counter(example.id for example in found)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise DataError(
            f"the data has ids that stand more than once ({len(repeated)}): {listed(repeated)}."
            " Each example needs an id of its own."
        )
    return found


def note_left_out(task: Task) -> None:
    """Print a note for each reason why the task has left examples out."""
    for text in task.left_out.texts():
        note(text)


def note_failed_rollouts(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print a note if rollouts in prediction lines failed, which post-processors do without."""
    rollouts = [(line, rollout) for line in lines for rollout in line.get(ROLLOUTS) or ()]
    failed = [line for line, rollout in rollouts if rollout.get("result") is None]
    if failed:
        ids = list(dict.fromkeys(str(line.get(EXAMPLE_ID, line.get("id"))) for line in failed))
        note(
            f"{len(failed):,} of {len(rollouts):,} rollouts failed and have no result, of examples"
            f" {listed(ids)}"
        )


def find_example(examples: Iterator[Example], example_id: str | None) -> Example:
    """The example with this id or this unique prefix of an id; by default the first one.

    Raises:
        UsageError: there is none, or more than one; lists some ids.
    """
    if example_id is None:
        [first] = first_examples(examples, 1)
        return first
    found = first_examples(examples, None)
    ids = [example.id for example in found]
    if example_id in ids:
        return found[ids.index(example_id)]
    matches = [example for example in found if example.id.startswith(example_id)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = _list([example.id for example in matches])
        raise UsageError(f"{len(matches)} example ids start with '{example_id}': {listed}")
    hint = did_you_mean(example_id, ids)
    raise UsageError(f"no example has the id '{example_id}'.{hint} There are: {_list(ids)}")


def _check_id(example: Example, where: object) -> None:
    """Elsewhere a lone surrogate is written as an escape; two ids could become one by that."""
    if isinstance(example.id, str) and escaped(example.id) != example.id:
        raise DataError(
            f"{where}: the id '{escaped(example.id)}' has half of a surrogate pair, which is no"
            " character. Mend the program that wrote it, or the id."
        )


def _list(ids: Sequence[str], most: int = 8) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more
