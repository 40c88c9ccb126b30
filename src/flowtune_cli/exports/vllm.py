"""The command with which vLLM serves the nodes of a flow, each under its name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The values of vLLM's --max-lora-rank; its default is 16.
_MAX_RANKS = (16, 32, 64, 128, 256, 320, 512)


def served_nodes(flow: Mapping[str, Any]) -> list[str]:
    """The nodes whose adapters a server applies as flowtune does: to the whole prompt."""
    if flow["merged"]:
        return list(flow["nodes"])
    return [
        name
        for name, node in flow["nodes"].items()
        if node["adapter"] is not None and not node["context_without_adapter"]
    ]


def serve_command(flow: Mapping[str, Any], folder: Path | None = None) -> list[str] | None:
    """The command; None if there is nothing that vLLM could serve.

    Args:
        flow: the contents of flow.json.
        folder: the exported one; None if the command is to be run in it.
    """
    base, names = flow["base_model"], served_nodes(flow)
    if not names or base["gguf_file"]:
        return None
    local = base["loaded_from"] if folder is None or not flow["merged"] else str(folder.absolute())
    command = ["vllm", "serve", local]
    if base["revision"] and not Path(base["loaded_from"]).is_dir():
        command += ["--revision", base["revision"]]
    # Its own choice for float32 weights is float16; and what it takes from the model's generation
    # config, such as a penalty, would change greedy outputs.
    command += ["--dtype", base["dtype"], "--generation-config", "vllm"]
    if base["quantization"] == "nf4":
        command += ["--quantization", "bitsandbytes"]
    if flow["chat_template"] is not None:
        command += ["--chat-template", _at(folder, flow["chat_template"]["file"])]
    if flow["merged"]:
        return [*command, "--served-model-name", *names]
    nodes = {name: flow["nodes"][name]["adapter"] for name in names}
    command += ["--enable-lora", "--max-loras", str(len(nodes))]
    rank = max(adapter["rank"] for adapter in nodes.values())
    if rank > _MAX_RANKS[0]:
        limit = next((limit for limit in _MAX_RANKS if limit >= rank), rank)
        command += ["--max-lora-rank", str(limit)]
    modules = [f"{name}={_at(folder, adapter['path'])}" for name, adapter in nodes.items()]
    return [*command, "--lora-modules", *modules]


def shell(command: list[str]) -> str:
    """A command for a shell, an option a line."""
    lines, line = [], ""
    for part in command:
        if part.startswith("--"):
            lines.append(line)
            line = "   "
        line += f" {shlex.quote(part)}" if line else shlex.quote(part)
    return " \\\n".join([*lines, line])


def _at(folder: Path | None, name: str) -> str:
    return name if folder is None else str(folder.absolute() / name)
