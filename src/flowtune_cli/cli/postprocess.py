"""``flowtune postprocess``: applies post-processors to a prediction file."""

from __future__ import annotations

from typing import Annotated

import typer

from ..flow.errors import UsageError
from . import options, stdout
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    PredictedOption,
    PredictionsArgument,
    PresetOption,
    SetOption,
    SplitOption,
    TaskArgument,
)
from .origins import tell_origins
from .output import note, print_json
from .phase import phase
from .programs import find, given


def postprocess(
    context: typer.Context,
    task: TaskArgument,
    predictions: PredictionsArgument,
    out: OutOption,
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
    found = find(registry, task, given(), config=config, overrides=set_)
    flags = {"preset": preset, **found.flags}
    resolved = options.settings(
        registry, found.task_class, config=config, overrides=set_, flags=flags
    )
    tell_origins(resolved)
    task_ = resolved.make_task()
    processors = selected_postprocessors(context, registry, task_)
    if not processors and not reorder:
        raise UsageError(
            "nothing to do: choose a post-processor (see 'flowtune ls postprocessors') or --reorder"
        )
    examples = first_examples(read_examples(task_, data, split), limit)
    lines = read_lines(predictions, task_, examples, reorder=reorder)
    note_left_out(task_)
    note_failed_rollouts(lines)
    with phase("applying the post-processors", silent=True):
        write_lines(out, post_process(processors, task_, examples, lines, note))
    note(f"wrote {len(lines)} predictions to {out if is_stream(out) else out.absolute()}")
    if json:
        print_json({"task": task_.name, "out": out.absolute(), "lines": len(lines)})
