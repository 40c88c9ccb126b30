"""``flowtune export``: a run's preferences, episodes or adapters, for other programs."""

from __future__ import annotations

import json as json_
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError, unknown_name
from . import options, stdout
from .completion import complete_checkpoint, complete_node
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json
from .stored_model import stored_model
from .stored_settings import stored_settings

if TYPE_CHECKING:
    from ..registry import Registry
    from ..runs.directory import RunDirectory
    from ..runs.export_preferences import Split
    from .exported_flow import ExportedFlow


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The run: its name or path.",
            autocompletion=complete_checkpoint,
        ),
    ],
    preferences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the preferences: JSON lines with prompt, chosen and rejected.",
        ),
    ] = None,
    episodes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the episodes: JSON lines with steps, rollouts and preferences.",
        ),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the checkpoint's adapters, a PEFT directory for each node, with all else"
            " that is needed to play them.",
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            metavar="NODE",
            help="Only the preferences of this node.",
            autocompletion=complete_node,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Export a run for other programs."""
    from ..registry import load_registry
    from ..runs.output_path import check_output
    from .checkpoint_names import LAST, checkpoint_of, split_name
    from .exported_flow import exported_flow
    from .together import check_alone

    check_alone("export")
    if preferences is None and episodes is None and adapters is None:
        raise UsageError("choose what to export: --preferences, --episodes or --adapters")
    if node is not None and preferences is None:
        raise UsageError("--node needs --preferences")
    registry = load_registry()
    directory, checkpoint = split_name(registry, run, config, set_)
    if checkpoint != LAST and adapters is None:
        raise UsageError(
            f"'{run}' names a checkpoint, which matters for --adapters alone: preferences and"
            f" episodes are those of the whole run, '{directory.path.name}'"
        )

    if adapters is not None:
        check_output(adapters, overwrite=overwrite, directory=True)  # before anything is written

    def model() -> dict[str, Any]:
        return stored_model(directory, options.settings(registry, config=config, overrides=set_))

    exported: dict[str, Any] = {"run": directory.path.name}
    if preferences is not None:
        exported["preferences"] = _preferences(
            directory, preferences, node, model, registry, overwrite
        )
    if episodes is not None:
        exported["episodes"] = _episodes(directory, episodes, overwrite)
    if adapters is not None:
        path = checkpoint_of(directory, checkpoint)
        flow = exported_flow(registry, directory, path, config, set_)
        exported["adapters"] = _adapters(path, flow, adapters, overwrite)
    if json:
        print_json(exported)
    elif adapters is not None and exported["adapters"]["vllm"]:
        note("serve them with vLLM:")
        stdout.write(exported["adapters"]["vllm"])


def _preferences(
    run: RunDirectory,
    path: Path,
    node: str | None,
    model: Callable[[], Mapping[str, Any]],
    registry: Registry,
    overwrite: bool,
) -> dict[str, Any]:
    from ..runs.atomic import new_file
    from ..runs.export_preferences import is_chat, write_preferences
    from ..runs.preference_reader import stream_preferences
    from ..runs.reader import RunReader

    nodes = _nodes(run)
    if node is not None and node not in nodes:
        raise unknown_name("node", node, list(nodes))
    with RunReader(run.store_path) as reader, new_file(path, overwrite=overwrite) as file:
        episodes = reader.counts().episodes
        split: Split | None = None
        if any(_is_chat_node(settings) for name, settings in nodes.items() if node in (None, name)):
            split = _splitter(model(), registry)
            with closing(stream_preferences(reader, node, episodes)) as stream:
                if not is_chat(stream, nodes, split):
                    split = None
        with closing(stream_preferences(reader, node, episodes)) as stream:
            result = write_preferences(file, stream, nodes, split)
    form = "conversations" if result.chat else "plain texts"
    note(f"{path.absolute()}: {result.lines} preferences, as {form}")
    if not result.chat and node is None:
        note("with --node, those of one node are conversations if its prompts are chats")
    if result.skipped:
        counts = ", ".join(f"{count} of '{name}'" for name, count in result.skipped.items())
        note(f"skipped {counts}: these outputs were selected from candidates, not generated")
    return {
        "path": path.absolute(),
        "lines": result.lines,
        "form": form,
        "skipped": dict(result.skipped),
    }


def _splitter(model: Mapping[str, Any], registry: Registry) -> Split:
    from ..config.settings import ModelSettings
    from ..models.chat import ChatSplitter, load_tokenizer
    from ..models.chat_template import TextOptions

    settings = ModelSettings.model_validate(model)
    return ChatSplitter(load_tokenizer(settings, registry), TextOptions.of(settings)).split


def _episodes(run: RunDirectory, path: Path, overwrite: bool) -> dict[str, Any]:
    from ..runs.atomic import new_file
    from ..runs.reader import RunReader

    lines = 0
    with (
        RunReader(run.store_path) as reader,
        new_file(path, overwrite=overwrite) as file,
        closing(reader.stream_episodes()) as stream,
    ):
        for episode in stream:
            file.write(json_.dumps(episode, ensure_ascii=False) + "\n")
            lines += 1
    note(f"{path.absolute()}: {lines} episodes")
    return {"path": path.absolute(), "lines": lines}


def _adapters(
    checkpoint: Path, exported: ExportedFlow, path: Path, overwrite: bool
) -> dict[str, Any]:
    from ..exports.folder import write_adapters
    from ..exports.vllm import serve_command

    flow = write_adapters(path, checkpoint, exported.about, exported.nodes, overwrite=overwrite)
    names = ", ".join(name for name, node in flow["nodes"].items() if node["adapter"])
    note(
        f"{path.absolute()}: the adapters of {names}, after {flow['episodes']} episodes; README.md"
        " says how"
    )
    for name, node in flow["nodes"].items():
        if node["model"] is not None:
            note(
                f"'{name}' is played by another model ({node['model']}), which is not in the"
                " folder: the code of README.md refuses to play it"
            )
        if node["adapter"] and node["head"]:
            note(
                f"'{name}' has a head besides its adapter, which servers do not apply; its"
                " parameters are in flow.json"
            )
        if node["context_without_adapter"]:
            note(
                f"'{name}' reads a frozen prefix without the adapter, which servers cannot do:"
                " README.md has the code for it"
            )
        for what, why in node["unwritten"].items():
            note(f"'{name}': its {what} is not in flow.json: {why}")
    command = serve_command(flow, path)
    return {
        "path": path.absolute(),
        **flow,
        "vllm": None if command is None else shlex.join(command),
    }


def _nodes(run: RunDirectory) -> Mapping[str, Any]:
    """The settings of a run's nodes."""
    nodes: Mapping[str, Any] = _settings(run)["tasks"].get(run.info.task, {}).get("nodes", {})
    return nodes


def _settings(run: RunDirectory) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = stored_settings(run)["settings"]
    return settings


def _is_chat_node(settings: Mapping[str, Any]) -> bool:
    prompt = settings.get("prompt")
    return not isinstance(prompt, Mapping) or bool(prompt.get("chat", True))
