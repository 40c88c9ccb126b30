"""``flowtune config``: the settings as they would be used, and where each comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from ..flow.errors import UsageError
from . import options, stdout
from .completion import complete_task
from .options import ConfigOption, JsonOption, PresetOption, SetOption
from .origins import with_origins
from .output import print_json, print_rows
from .programs import find, given


def config(
    task: Annotated[
        str | None,
        typer.Argument(help="Also the settings of this task.", autocompletion=complete_task),
    ] = None,
    template: Annotated[
        bool, typer.Option("--template", help="Print a flowtune.toml with every setting.")
    ] = False,
    json: JsonOption = False,
    preset: PresetOption = None,
    file: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show every setting, its value, and where the value comes from."""
    from ..config import template as config_template
    from ..registry import load_registry

    if template:
        stdout.write(config_template.template(), end="")
        return
    if preset is not None and task is None:
        raise UsageError("--preset needs a TASK, whose preset it is: flowtune config TASK --preset")
    registry = load_registry()
    found = None if task is None else find(registry, task, given(), config=file, overrides=set_)
    resolved = options.settings(
        registry,
        None if found is None else found.task_class,
        config=file,
        overrides=set_,
        flags={"preset": preset, **({} if found is None else found.flags)},
    )
    if json:
        print_json(resolved.stored)
        return
    rows = [
        {"setting": key, "value": value, "from": str(origin)}
        for key, value, origin in with_origins(resolved)
    ]
    print_rows(["setting", "value", "from"], rows)
