"""``flowtune export``: a run's preferences, episodes or adapters, for other programs."""

from __future__ import annotations

import json as json_
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError, unknown_name
from .options import ConfigOption, JsonOption, SetOption
from .output import note, print_json
from .stored_settings import stored_settings

if TYPE_CHECKING:
    from ..runs.directory import RunDirectory
    from ..runs.export_preferences import Split


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run: its name or path.")],
    preferences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the preferences there: JSON lines with prompt, chosen and rejected.",
        ),
    ] = None,
    episodes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the episodes there: JSON lines with steps, rollouts and preferences.",
        ),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the newest checkpoint's adapters there, a PEFT directory for each node.",
        ),
    ] = None,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Only the preferences of this node.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there already.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write what a run made into files that other programs read."""
    from ..registry import load_registry
    from .run_settings import find_run

    if preferences is None and episodes is None and adapters is None:
        raise UsageError("say what to write, and where: --preferences, --episodes or --adapters")
    if node is not None and preferences is None:
        raise UsageError("--node is for --preferences")
    found = find_run(load_registry(), run, config, set_)
    written: dict[str, Any] = {"run": found.path.name}
    if preferences is not None:
        written["preferences"] = _preferences(found, preferences, node, overwrite)
    if episodes is not None:
        written["episodes"] = _episodes(found, episodes, overwrite)
    if adapters is not None:
        written["adapters"] = _adapters(found, adapters, overwrite)
    if json:
        print_json(written)
    elif adapters is not None:
        note("vLLM serves them by this command:")
        typer.echo(written["adapters"]["vllm"])


def _preferences(
    run: RunDirectory, path: Path, node: str | None, overwrite: bool
) -> dict[str, Any]:
    from ..runs.export import RunExport
    from ..runs.export_files import new_file
    from ..runs.export_preferences import is_chat, write_preferences

    nodes = _nodes(run)
    if node is not None and node not in nodes:
        raise unknown_name("node", node, list(nodes))
    with RunExport(run.store_path) as store, new_file(path, overwrite=overwrite) as file:
        episodes = store.count()
        split: Split | None = None
        if any(_is_chat_node(settings) for name, settings in nodes.items() if node in (None, name)):
            split = _splitter(run)
            with closing(store.preferences(node, episodes)) as stream:
                if not is_chat(stream, nodes, split):
                    split = None
        with closing(store.preferences(node, episodes)) as stream:
            written = write_preferences(file, stream, nodes, split)
    form = "conversations" if written.chat else "plain texts"
    note(f"{path}: {written.lines} preferences, as {form}")
    if not written.chat and node is None:
        note("--node gives those of one node, as conversations where its prompts are chats")
    if written.left_out:
        counts = ", ".join(f"{count} of '{name}'" for name, count in written.left_out.items())
        note(
            f"left out: {counts}: these outputs were chosen, and are no texts that follow a prompt"
        )
    return {
        "path": path,
        "lines": written.lines,
        "form": form,
        "left_out": dict(written.left_out),
    }


def _splitter(run: RunDirectory) -> Split:
    from ..config.settings import ModelSettings
    from ..models.chat import ChatSplitter, load_tokenizer

    model = ModelSettings.model_validate(_settings(run)["model"])
    return ChatSplitter(load_tokenizer(model)).split


def _episodes(run: RunDirectory, path: Path, overwrite: bool) -> dict[str, Any]:
    from ..runs.export import RunExport
    from ..runs.export_files import new_file

    lines = 0
    with (
        RunExport(run.store_path) as store,
        new_file(path, overwrite=overwrite) as file,
        closing(store.all_episodes()) as stream,
    ):
        for episode in stream:
            file.write(json_.dumps(episode, ensure_ascii=False) + "\n")
            lines += 1
    note(f"{path}: {lines} episodes")
    return {"path": path, "lines": lines}


def _adapters(run: RunDirectory, path: Path, overwrite: bool) -> dict[str, Any]:
    from ..runs.export_adapters import Base, export_adapters
    from .trained import newest_checkpoint

    model = _settings(run)["model"]
    base = Base(model["name"], model["revision"], _loaded_from(model["name"]))
    about = {"run": run.path.name, "task": run.info.task}
    frozen_prefixes = {name: _frozen_prefix(settings) for name, settings in _nodes(run).items()}
    manifest = export_adapters(
        path, newest_checkpoint(run), base, about, frozen_prefixes, overwrite=overwrite
    )
    names = ", ".join(adapter["node"] for adapter in manifest["adapters"])
    note(f"{path}: the adapters of {names}, after {manifest['episode']} episodes")
    for adapter in manifest["adapters"]:
        if "head" in adapter:
            note(
                f"'{adapter['node']}' has a head beside its adapter, which no server applies; the"
                " manifest has its parameters"
            )
        if "frozen_prefix" in adapter:
            note(
                f"'{adapter['node']}' has a frozen prefix, which the base model encodes without the"
                " adapter; a server uses the adapter on the whole prompt, and gives other outputs"
            )
    return {"path": path, **manifest}


def _loaded_from(name: str) -> str:
    from ..models import builtin_model

    if name == builtin_model.NAME:
        return str(builtin_model.cached_directory())
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


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


def _frozen_prefix(settings: Mapping[str, Any]) -> str:
    prompt = settings.get("prompt")
    return str(prompt.get("frozen_prefix", "")) if isinstance(prompt, Mapping) else ""
