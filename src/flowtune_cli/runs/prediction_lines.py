"""Reads a file of predictions, and finds out which line is whose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..flow.errors import DataError

Line = dict[str, Any]


def read_predictions(path: Path) -> Iterator[Line]:
    """The lines of a prediction file; blank ones are passed over.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object; says which.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _prediction(line, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def fit(
    keys: Sequence[Mapping[str, str]], lines: Sequence[Line], *, reorder: bool
) -> tuple[list[Line], list[str]]:
    """The line of each example, in the examples' order.

    A line is an example's if it agrees with all fields of the example's key that it has; the
    first field of the key (the id) it must have. Lines of one id that lack the further fields
    are taken in the order in which they stand.

    Args:
        keys: of the examples, in their order; see ``Task.prediction_key``.
        reorder: lines that stand in another order than the examples are put right.

    Returns:
        The lines, and what there is to say about their order.

    Raises:
        DataError: examples have no line, lines no example, or (without ``reorder``) the order
            differs. The message has counts and the first ids.
    """
    if not keys:
        return list(lines), []
    name = next(iter(keys[0]))
    for number, line in enumerate(lines, start=1):
        if not isinstance(line.get(name), str):
            raise DataError(f"prediction {number} has no '{name}' that is a text")
    if len(keys) == len(lines) and all(map(_agrees, keys, lines)):
        return list(lines), []

    of_example, unsure = _assigned(keys, lines, name)
    used = {position for position in of_example if position is not None}
    missing = [key[name] for key, found in zip(keys, of_example, strict=True) if found is None]
    extra = [line[name] for position, line in enumerate(lines) if position not in used]
    problems = []
    if missing:
        problems.append(f"no line for {len(missing)} of {len(keys)} examples: {_listed(missing)}")
    if extra:
        problems.append(f"{len(extra)} of {len(lines)} lines are of no example: {_listed(extra)}")
    if differing := [value for value in dict.fromkeys(missing) if value in extra]:
        fields = " and ".join(f"'{field}'" for field in list(keys[0])[1:])
        problems.append(f"{fields} of {_listed(differing)} differs from the data's")
    if problems:
        raise DataError(
            f"the predictions do not fit the data: {'; '.join(problems)}."
            " There must be one line for each example, see --data, --split and --limit."
        )
    order = [position for position in of_example if position is not None]
    moved = [number for number, position in enumerate(order) if number != position]
    if not reorder:
        first = moved[0]
        raise DataError(
            f"{len(moved)} of {len(lines)} predictions are in another order than the data: number"
            f" {first + 1} is of '{lines[first][name]}', and that of '{keys[first][name]}' should"
            f" stand there, which is number {order[first] + 1}. --reorder puts them right."
        )
    notes = [f"{len(moved)} of {len(lines)} predictions were put in the order of the data"]
    if unsure:
        further = " or ".join(f"'{field}'" for field in list(keys[0])[1:]) or "more than its id"
        notes.append(
            f"{len(unsure)} ids stand more than once, in lines that lack {further}, which would"
            f" tell them apart; those lines keep their order: {_listed(unsure)}"
        )
    return [lines[position] for position in order], notes


def _assigned(
    keys: Sequence[Mapping[str, str]], lines: Sequence[Line], name: str
) -> tuple[list[int | None], list[str]]:
    """The position of each example's line, and the ids with lines that nothing tells apart."""
    examples_of = _by_id(key[name] for key in keys)
    of_example: list[int | None] = [None] * len(keys)
    unsure = []
    for value, positions in _by_id(line[name] for line in lines).items():
        free = examples_of.get(value, [])
        plain = [p for p in positions if not any(f in lines[p] for f in keys[0] if f != name)]
        for position in positions:
            if position not in plain:
                mine = next((e for e in free if _agrees(keys[e], lines[position])), None)
                if mine is not None:
                    of_example[mine] = position
                    free = [e for e in free if e != mine]
        for example, position in zip(free, plain, strict=False):  # what is left over is an error
            of_example[example] = position
        if len(plain) > 1:
            unsure.append(value)
    return of_example, unsure


def _agrees(key: Mapping[str, str], line: Mapping[str, Any]) -> bool:
    return all(line[field] == value for field, value in key.items() if field in line)


def _by_id(ids: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for position, value in enumerate(ids):
        found.setdefault(value, []).append(position)
    return found


def _prediction(line: bytes, where: str) -> Line:
    try:
        prediction = json.loads(line)
    except ValueError as error:  # of the encoding, too
        raise DataError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(prediction, dict):
        raise DataError(f"{where}: a prediction is a JSON object, such as {{...}}")
    return prediction


def _listed(ids: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(f"'{value}'" for value in ids[:most])
    return f"{shown} and {len(ids) - most} more" if len(ids) > most else shown
