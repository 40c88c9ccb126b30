"""``flowtune postprocess``: applies post-processors to a prediction file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError
from ..flow.postprocessing import ROLLOUTS
from . import stdout
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    PredictedOption,
    PresetOption,
    SetOption,
    SplitOption,
)
from .output import note, print_json, warn
from .phase import phase
from .predicted import FirstArgument, PlayedRunOption, SecondArgument, predicted
from .programs import given

if TYPE_CHECKING:
    from ..flow.postprocessing import PostProcessor


def postprocess(
    context: typer.Context,
    out: OutOption,
    task: FirstArgument = None,
    predictions: SecondArgument = None,
    run: PlayedRunOption = None,
    data: DataOption = None,
    split: SplitOption = None,
    limit: PredictedOption = None,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Sort the predictions into the data's order.")
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Apply post-processors to a prediction file; other fields and the order stay.

    Plugins add post-processors as options: 'flowtune ls postprocessors' lists them. They work best
    on a file of 'flowtune predict --scores'. --json prints what was done, not the predictions.
    """
    from ..flow.postprocessing import post_process
    from ..registry import load_registry
    from ..runs.output_path import check_output, is_stream
    from ..runs.prediction_writer import write_lines
    from .evaluate import read_lines
    from .examples import first_examples, note_failed_rollouts, note_left_out, read_examples
    from .postprocessors import selected_postprocessors
    from .together import check_alone

    check_alone("postprocess")
    check_output(out, overwrite=overwrite)
    if json and stdout.is_own(out):
        raise UsageError(
            "--json prints what was done where --out writes the predictions: leave one out"
        )
    registry = load_registry()
    task_, path = predicted(
        registry,
        task,
        predictions,
        run,
        given(),
        preset=preset,
        config=config,
        overrides=set_,
    )
    processors = selected_postprocessors(context, registry, task_)
    if not processors and not reorder:
        raise UsageError(
            "nothing to do: choose a post-processor (see 'flowtune ls postprocessors') or --reorder"
        )
    examples = first_examples(read_examples(task_, data, split), limit)
    lines = read_lines(path, task_, examples, reorder=reorder)
    note_left_out(task_)
    note_failed_rollouts(lines)
    _warn_of_missing(processors, lines)
    with phase("applying the post-processors", silent=True):
        write_lines(out, post_process(processors, task_, examples, lines, note))
    note(f"wrote {len(lines)} predictions to {out if is_stream(out) else out.absolute()}")
    if json:
        print_json({"task": task_.name, "out": out.absolute(), "lines": len(lines)})


def _warn_of_missing(
    processors: Sequence[PostProcessor], lines: Sequence[Mapping[str, Any]]
) -> None:
    """Say that lines lack the rollouts that a post-processor needs, and so may stay as they are."""
    missing = sum(ROLLOUTS not in line for line in lines)
    for processor in processors:
        if processor.nodes and missing:
            warn(
                f"{missing} of {len(lines)} lines have no rollouts, which --{processor.name} needs:"
                f" predict with --scores and --{processor.name}"
            )
