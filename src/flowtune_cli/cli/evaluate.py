"""``flowtune evaluate``: the figures of a file of predictions."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..flow.errors import DataError
from . import options
from .options import ConfigOption, DataOption, JsonOption, SetOption, SplitOption, TaskArgument
from .output import print_json, print_rows


def evaluate(
    task: TaskArgument,
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="The file that 'flowtune predict' wrote.")
    ],
    data: DataOption = None,
    split: SplitOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Only this many of the first examples, as predicted."
        ),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Compare predictions with the labels of the data, in the task's own way."""
    from ..registry import load_registry
    from .examples import first_examples, read_examples

    registry = load_registry()
    resolved = options.settings(registry, registry.task(task), config=config, overrides=set_)
    chosen = resolved.make_task()
    lines = list(read_predictions(predictions))
    examples = first_examples(read_examples(chosen, data, split), limit)
    figures = chosen.evaluate(examples, lines)
    if json:
        print_json(dict(figures))
        return
    print_rows(
        ["figure", "value"],
        [{"figure": name, "value": _shown(value)} for name, value in figures.items()],
    )


def read_predictions(path: Path) -> Iterator[dict[str, Any]]:
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


def _prediction(line: bytes, where: str) -> dict[str, Any]:
    try:
        prediction = json_.loads(line)
    except ValueError as error:  # of the encoding, too
        raise DataError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(prediction, dict):
        raise DataError(f"{where}: a prediction is a JSON object, such as {{...}}")
    return prediction


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
