"""``flowtune merge``: a node's adapter in the base model's weights, for whatever runs a model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from . import stdout
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json


class Dtype(str, Enum):
    """What weights are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def merge(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="The run: its name or path, maybe with a checkpoint: first@best."
        ),
    ],
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node whose adapter is merged.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of the merged model.")
    ],
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            metavar="|".join(each.value for each in Dtype),
            help="What its weights are stored in; by default what the run computed in.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier one.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Merge a node's adapter into the base model: a whole model that needs no adapter."""
    import shlex

    from ..exports.folder import FLOW, write_texts
    from ..exports.merged import merged_flow, node_to_merge
    from ..exports.readme import folder_readme
    from ..exports.vllm import serve_command
    from ..registry import load_registry
    from ..runs.atomic import new_directory
    from ..runs.output_path import check_output
    from .checkpoint_names import find_checkpoint
    from .exported_flow import exported_flow
    from .together import check_alone

    check_alone("merge")
    check_output(directory, overwrite=overwrite, directory=True)
    registry = load_registry()
    found, checkpoint = find_checkpoint(registry, run, config, set_)
    exported = exported_flow(registry, found, checkpoint, config, set_)
    about = exported.about
    chosen = node_to_merge(about, exported.nodes, node)
    stored_in = dtype.value if dtype else about.base_model["dtype"]
    flow = merged_flow(about, checkpoint, chosen, stored_in)
    with new_directory(directory, overwrite=overwrite, marker=FLOW) as building:
        from ..engine.merging import merge_adapter

        note(f"loading {exported.model.name}")
        merge_adapter(
            exported.model,
            registry,
            checkpoint / "adapters" / str(chosen.adapter_name),
            building,
            dtype=stored_in,
            template=about.template,
            ends=about.texts["tokens"]["end"],
        )
        write_texts(building, flow, about.template, folder_readme(flow))
    note(f"{directory}: node '{node}' as a whole model, in {stored_in}; README.md says how")
    if stored_in != "float32":
        note("rounded weights are not quite the sum: --dtype float32 keeps it whole")
    if flow["nodes"][node]["head"]:
        note(f"'{node}' has a head besides its weights; its parameters are in flow.json")
    command = serve_command(flow, directory)
    if json:
        print_json({"path": directory, **flow})
    elif command:
        note("serve it with vLLM:")
        stdout.write(shlex.join(command))
