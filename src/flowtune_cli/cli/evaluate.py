"""``flowtune evaluate``: the metrics of a prediction file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.episode import Failure
from ..flow.errors import FlowtuneError
from ..flow.figures import each_figure
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    PredictedOption,
    PresetOption,
    SetOption,
    SplitOption,
)
from .output import note, print_json, print_rows
from .phase import phase
from .predicted import FirstArgument, PlayedRunOption, SecondArgument, predicted
from .programs import GoldOption, RewardOption, given

if TYPE_CHECKING:
    from ..flow.example import Example
    from ..flow.task import Task


def evaluate(
    task: FirstArgument = None,
    predictions: SecondArgument = None,
    run: PlayedRunOption = None,
    data: DataOption = None,
    split: SplitOption = None,
    limit: PredictedOption = None,
    reorder: Annotated[
        bool,
        typer.Option("--reorder", help="Sort the predictions into the data's order first."),
    ] = False,
    json: JsonOption = False,
    reward: RewardOption = None,
    gold: GoldOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Evaluate a prediction file with the task's metrics.

    'flowtune eval' plays runs and compares them.
    """
    from ..registry import load_registry
    from .examples import first_examples, note_left_out, read_examples

    task_, path = predicted(
        load_registry(),
        task,
        predictions,
        run,
        given(reward=reward, gold=gold),
        preset=preset,
        config=config,
        overrides=set_,
    )
    examples = first_examples(read_examples(task_, data, split), limit)
    lines = read_lines(path, task_, examples, reorder=reorder)
    with phase("evaluating", silent=True):
        metrics = _evaluated(task_, examples, lines, path)
    note_left_out(task_)
    if json:
        left_out = task_.left_out.as_json()
        print_json({**metrics, **({"left_out": left_out} if left_out else {})})
        return
    rows = [
        {
            "metric": name,
            "value": _format(value),
            "interval": "" if interval is None else " to ".join(map(_format, interval)),
        }
        for name, value, interval in each_figure(metrics)
    ]
    columns = ["metric", "value"]
    if any(row["interval"] for row in rows):
        columns.append("interval")
    print_rows(columns, rows)


def read_lines(
    path: Path, task: Task, examples: Sequence[Example], *, reorder: bool
) -> list[dict[str, Any]]:
    """The lines of a prediction file, one for each example, in the order of the examples.

    Args:
        reorder: accept lines in another order, sort them, and print a note about it.

    Raises:
        DataError: a line is malformed, or the lines do not match the examples.
    """
    from ..runs.prediction_reader import match_lines, read_predictions

    lines, notes = match_lines(task, examples, list(read_predictions(path)), reorder=reorder)
    for text in notes:
        note(text)
    return lines


def _evaluated(
    task: Task, examples: Sequence[Example], lines: Sequence[dict[str, Any]], path: Path
) -> Mapping[str, Any]:
    """The task's figures.

    Raises:
        FlowtuneError: the task could not evaluate the lines, which may be those of another one.
    """
    try:
        return task.evaluate(examples, lines)
    except FlowtuneError:
        raise
    except Exception as error:
        raise FlowtuneError(
            f"task '{task.name}' cannot evaluate {path}: are these predictions of this task?\n"
            f"{Failure.of(error).traceback}"
        ) from error


def _format(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
