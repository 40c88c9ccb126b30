"""The options that several commands have, and the settings that come of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .completion import (
    complete_checkpoint,
    complete_model,
    complete_preset,
    complete_setting,
    complete_split,
)

if TYPE_CHECKING:
    from ..config.layers import Setting
    from ..config.resolve import Resolved
    from ..flow.task import Task
    from ..registry import Registry

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings file, instead of ./flowtune.toml."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Set one setting; may be repeated. The value is TOML or a string.",
        autocompletion=complete_setting,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A preset of the task, see 'flowtune show'; or 'none'.",
        autocompletion=complete_preset,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The base model.", autocompletion=complete_model),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="The task's data, a file or folder."),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="The split; by default the task's first one.",
        autocompletion=complete_split,
    ),
]
PredictedOption = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, metavar="N", help="Only this many of the first examples, as predicted."
    ),
]
OUT = typer.Option(
    "--out",
    metavar="FILE",
    help="Where the predictions are written; a device or pipe, such as /dev/stdout, too.",
)
OutOption = Annotated[Path, OUT]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="Play the flow as of this run's newest checkpoint, or as of RUN@EPISODES or"
        " RUN@best; by default, untrained.",
        autocompletion=complete_checkpoint,
    ),
]


def settings(
    registry: Registry,
    task_class: type[Task] | None = None,
    *,
    config: Path | None = None,
    overrides: Sequence[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    preset: Setting | None = None,
) -> Resolved:
    """The settings of a command, from the file, the environment and its options.

    Args:
        preset: the preset unless another is chosen; None is the model's default one.
    """
    from ..config.resolve import resolve

    return resolve(
        task_class,
        file=config,
        environ=os.environ,
        overrides=overrides or (),
        flags=flags,
        registry=registry,
        preset=preset,
    )
