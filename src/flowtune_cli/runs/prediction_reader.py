"""Reads a prediction file and matches its lines with the examples of the data."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..flow.errors import DataError
from ..flow.example import Example
from ..flow.postprocessing import EXAMPLE_ID
from ..flow.task import Task
from ..flow.text_files import read_text_lines

Line = dict[str, Any]


def read_predictions(path: Path) -> Iterator[Line]:
    """The lines of a prediction file; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    for number, line in read_text_lines(path):
        if line.strip():
            yield _parse(line, f"{path}:{number}")


def match_lines(
    task: Task, examples: Sequence[Example], lines: Sequence[Line], *, reorder: bool
) -> tuple[list[Line], list[str]]:
    """The line of each example, in the order of the examples.

    A line that has an ``example_id`` is the line of that example. Any other line is matched by its
    ``id`` (see ``Task.prediction_id``); lines that share an id are taken in their order.

    Args:
        reorder: accept lines in another order than the examples, and sort them.

    Returns:
        The lines, and notes for the user about their order.

    Raises:
        DataError: examples have no line, lines have no example, or (without ``reorder``) the order
            differs. The message has counts and the first ids.
    """
    for number, line in enumerate(lines, start=1):
        for field in ("id", EXAMPLE_ID) if EXAMPLE_ID in line else ("id",):
            if not isinstance(line.get(field), str):
                raise DataError(f"prediction {number} has no text in '{field}'")

    line_of, ambiguous = _assign(task, examples, lines)
    matched = set(line_of.values())
    missing = [e.id for position, e in enumerate(examples) if position not in line_of]
    extra = [_name(line) for number, line in enumerate(lines) if number not in matched]
    problems = []
    if missing:
        problems.append(f"no line for {len(missing)} of {len(examples)} examples: {_list(missing)}")
    if extra:
        problems.append(f"no example for {len(extra)} of {len(lines)} lines: {_list(extra)}")
    if problems:
        raise DataError(
            f"the predictions do not match the data: {'; '.join(problems)}."
            " There must be one line for each example; check --data, --split and --limit."
        )
    order = [line_of[position] for position in range(len(examples))]
    moved = [position for position, number in enumerate(order) if position != number]
    if not moved:
        return list(lines), []
    if not reorder:
        first = moved[0]
        raise DataError(
            f"{len(moved)} of {len(lines)} predictions are not in the order of the data: number"
            f" {first + 1} should be for '{examples[first].id}', but is for"
            f" '{_name(lines[first])}'. Use --reorder to sort them."
        )
    notes = [f"sorted {len(moved)} of {len(lines)} predictions into the order of the data"]
    if ambiguous:
        notes.append(
            f"{len(ambiguous)} ids occur more than once, in lines without '{EXAMPLE_ID}'; the lines"
            f" of one id keep their order: {_list(ambiguous)}"
        )
    return [lines[number] for number in order], notes


def _assign(
    task: Task, examples: Sequence[Example], lines: Sequence[Line]
) -> tuple[dict[int, int], list[str]]:
    """The line number of each example that has a line, and the ids that several lines share."""
    position_of = {example.id: position for position, example in enumerate(examples)}
    line_of: dict[int, int] = {}
    lines_by_id: defaultdict[str, deque[int]] = defaultdict(deque)
    for number, line in enumerate(lines):
        if EXAMPLE_ID not in line:
            lines_by_id[line["id"]].append(number)
        elif line[EXAMPLE_ID] in position_of:
            line_of.setdefault(position_of[line[EXAMPLE_ID]], number)
    ambiguous = [name for name, numbers in lines_by_id.items() if len(numbers) > 1]
    for position, example in enumerate(examples):
        numbers = lines_by_id.get(task.prediction_id(example))
        if numbers and position not in line_of:
            line_of[position] = numbers.popleft()
    return line_of, ambiguous


def _name(line: Line) -> str:
    name: str = line[EXAMPLE_ID if EXAMPLE_ID in line else "id"]
    return name


def _parse(line: str, where: str) -> Line:
    try:
        prediction = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(prediction, dict):
        raise DataError(f"{where}: a prediction must be a JSON object, such as {{...}}")
    return prediction


def _list(ids: Sequence[str], most: int = 5) -> str:
    listed = ", ".join(f"'{name}'" for name in ids[:most])
    return f"{listed} and {len(ids) - most} more" if len(ids) > most else listed
