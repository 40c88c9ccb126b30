"""The folder of a run's adapters: PEFT directories, ``flow.json``, the chat template, a README."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError
from ..flow.node import Node
from ..runs.atomic import new_directory, read_json, write_bytes, write_json
from .nodes import node_entry
from .readme import folder_readme
from .vllm import serve_command

VERSION = 1
"""Of the schema of flow.json; it grows when a reader of an older one would go wrong."""

FLOW = "flow.json"
CHAT_TEMPLATE = "chat_template.jinja"
_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class About:
    """What a flow is, beside its nodes.

    Args:
        base_model: see ``models.facts.base_model``.
        texts: ``chat_template`` and ``tokens``, see ``models.facts.texts``.
        template: the chat template's text; empty if there is none.
        trained: the run, its task, and the program that made this.
    """

    base_model: Mapping[str, Any]
    texts: Mapping[str, Any]
    template: str
    trained: Mapping[str, Any]

    @property
    def loaded_from(self) -> str:
        """The base model as PEFT and servers name it: a Hugging Face id, a directory or a file."""
        source, gguf = self.base_model["loaded_from"], self.base_model["gguf_file"]
        return str(Path(source, gguf)) if gguf else str(source)


def flow_json(
    about: About,
    checkpoint: Path,
    nodes: Sequence[Node],
    *,
    adapters: Mapping[str, Mapping[str, Any]] = {},
    merged: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of flow.json.

    Args:
        checkpoint: a run's checkpoint, named by its episodes.
        adapters: the entry of each adapter, by its name.
        merged: the node whose adapter is in the weights, and the base model that they were.
    """
    states = read_json(checkpoint / "state.json")["nodes"]
    entries = {}
    for node in nodes:
        name = node.adapter_name
        adapter = None if name is None else adapters.get(name)
        head = {**node.initial_head(), **_head(checkpoint, node)}
        entries[node.name] = node_entry(node, adapter, head, states.get(node.name))
    flow = {
        "version": VERSION,
        **about.trained,
        "episodes": int(checkpoint.name),
        "base_model": dict(about.base_model),
        **about.texts,
        "merged": merged,
        "nodes": entries,
    }
    command = serve_command(flow)
    return {**flow, "vllm": None if command is None else shlex.join(command)}


def write_adapters(
    target: Path, checkpoint: Path, about: About, nodes: Sequence[Node], *, overwrite: bool
) -> dict[str, Any]:
    """Write ``target/NODE/`` for each node's adapter, and what is needed to play the flow.

    Returns:
        The contents of flow.json.

    Raises:
        UsageError: ``target`` exists and may not be overwritten.
        FlowtuneError: no node has an adapter, or a file cannot be read or written.
    """
    names = [name for node in nodes if (name := node.adapter_name) is not None]
    if not names:
        raise FlowtuneError(f"the checkpoint {checkpoint} has no adapters: no node trains one")
    with new_directory(target, overwrite=overwrite, marker=FLOW) as building:
        adapters = {
            name: _copy(checkpoint / "adapters" / name, building / name, about)
            for name in dict.fromkeys(names)
        }
        flow = flow_json(about, checkpoint, nodes, adapters=adapters)
        write_texts(building, flow, about.template, folder_readme(flow))
    return flow


def write_texts(building: Path, flow: Mapping[str, Any], template: str, readme: str) -> None:
    """Write flow.json, the chat template if there is one, and the README."""
    write_json(building / FLOW, flow)
    if template:
        write_bytes(building / CHAT_TEMPLATE, [template.encode("utf-8")])
    write_bytes(building / "README.md", [readme.encode("utf-8", "backslashreplace")])


def stored(checkpoint: Path, adapter: str) -> dict[str, Any]:
    """What a checkpoint has of an adapter beside its weights: version and heads.

    Raises:
        FlowtuneError: it is missing.
    """
    path = checkpoint / "adapters" / adapter / "flowtune.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path) from error
    return found


def _head(checkpoint: Path, node: Node) -> Mapping[str, float]:
    """What a node has learned beside its adapter, which may be that of another node."""
    if node.adapter_name is None:
        return {}
    of_adapter = stored(checkpoint, node.adapter_name)
    shared: Mapping[str, Mapping[str, float]] = of_adapter.get("shared", {})
    own: Mapping[str, float] = of_adapter["head"]
    return own if node.name == node.adapter_name else shared.get(node.name, {})


def _copy(source: Path, target: Path, about: About) -> dict[str, Any]:
    """Copy one adapter; returns its entry in flow.json."""
    target.mkdir()
    for name in _FILES:
        try:
            shutil.copyfile(source / name, target / name)
        except FileNotFoundError as error:
            raise _missing(source / name) from error
    config = read_json(target / "adapter_config.json")
    config["base_model_name_or_path"] = about.loaded_from
    config["revision"] = about.base_model["revision"]
    write_json(target / "adapter_config.json", config)
    version = stored(source.parent.parent, source.name)["version"]
    return {"name": source.name, "path": source.name, "rank": config["r"], "version": version}


def _missing(path: Path) -> FlowtuneError:
    return FlowtuneError(
        f"{path} is missing. A run in training deletes its older checkpoints: try again."
    )
