"""``flowtune postprocess``: changes a file of predictions as ``flowtune predict`` could have."""

from __future__ import annotations

from typing import Annotated

import typer

from ..flow.errors import UsageError
from . import options
from .options import (
    ConfigOption,
    DataOption,
    OutOption,
    OverwriteOption,
    PredictedOption,
    PredictionsArgument,
    SetOption,
    SplitOption,
    TaskArgument,
)
from .output import note


def postprocess(
    context: typer.Context,
    task: TaskArgument,
    predictions: PredictionsArgument,
    out: OutOption,
    data: DataOption = None,
    split: SplitOption = None,
    limit: PredictedOption = None,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Put the predictions in the order of the data.")
    ] = False,
    overwrite: OverwriteOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Apply post-processors to predictions; they come in the same order and with the same fields.

    Plugins add post-processors to the options: 'flowtune ls postprocessors' lists them. They work
    best on what 'flowtune predict --scores' wrote.
    """
    from ..flow.postprocessing import post_process
    from ..registry import load_registry
    from ..runs.prediction_writer import write_lines
    from .evaluate import read_lines
    from .examples import first_examples, read_examples
    from .postprocessors import asked_for
    from .predict import check_out

    check_out(out, overwrite)
    registry = load_registry()
    resolved = options.settings(registry, registry.task(task), config=config, overrides=set_)
    chosen = resolved.make_task()
    processors = asked_for(context, registry, chosen)
    if not processors and not reorder:
        raise UsageError(
            "there is nothing to do: say which post-processor to apply (see 'flowtune ls"
            " postprocessors'), or --reorder"
        )
    examples = first_examples(read_examples(chosen, data, split), limit)
    lines = read_lines(predictions, chosen, examples, reorder=reorder)
    write_lines(out, post_process(processors, chosen, examples, lines, note))
    note(f"{len(lines)} predictions are in {out}")
