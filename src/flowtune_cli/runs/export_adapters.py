"""Exports a checkpoint's adapters as directories that PEFT and multi-LoRA servers load."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError
from .atomic import new_directory, read_json, write_json

MANIFEST = "manifest.json"
_FILES = ("adapter_model.safetensors", "adapter_config.json")
_REFERENCE = "reference-of-"
# The values of vLLM's --max-lora-rank; its default is 16.
_MAX_RANKS = (16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Base:
    """The model that adapters are for.

    Args:
        name, revision: as in the settings.
        loaded_from: what PEFT and a server load: a Hugging Face id or a directory.
    """

    name: str
    revision: str | None
    loaded_from: str


def export_adapters(
    target: Path,
    checkpoint: Path,
    base: Base,
    metadata: Mapping[str, Any],
    frozen_prefixes: Mapping[str, str],
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Write ``target/NODE/`` for each node's adapter, and ``target/manifest.json``.

    An adapter that other nodes share has their names in the manifest, each with its head.

    Args:
        checkpoint: a run's checkpoint, named by its episodes.
        metadata: further entries of the manifest, such as run and task.
        frozen_prefixes: by node, the template of its prompt's frozen prefix, if it has one.

    Returns:
        The manifest.

    Raises:
        UsageError: ``target`` exists and may not be overwritten.
        FlowtuneError: the checkpoint has no adapters, or a file cannot be read or written.
    """
    sources = sorted(
        path
        for path in (checkpoint / "adapters").glob("*")
        if path.is_dir() and not path.name.startswith(_REFERENCE)
    )
    if not sources:
        raise FlowtuneError(f"the checkpoint {checkpoint} has no adapters: no node trains one")
    with new_directory(target, overwrite=overwrite, marker=MANIFEST) as building:
        manifest: dict[str, Any] = {
            "base_model": base.name,
            "revision": base.revision,
            "base_model_loaded_from": base.loaded_from,
            **metadata,
            "episode": int(checkpoint.name),
            "adapters": [
                _copy(source, building / source.name, base)
                | _nonempty({"frozen_prefix": frozen_prefixes.get(source.name)})
                for source in sources
            ],
        }
        manifest["vllm"] = serve_command(target, manifest)
        write_json(building / MANIFEST, manifest)
    return manifest


def serve_command(target: Path, manifest: Mapping[str, Any]) -> str:
    """The command line that serves the model with all adapters, each under its node's name."""
    adapters = manifest["adapters"]
    command = ["vllm", "serve", manifest["base_model_loaded_from"]]
    if manifest["revision"] and not Path(manifest["base_model_loaded_from"]).is_dir():
        command += ["--revision", manifest["revision"]]
    rank = max(adapter["rank"] for adapter in adapters)
    served = sum(1 + len(adapter.get("shared_by", ())) for adapter in adapters)
    command += ["--enable-lora", "--max-loras", str(served)]
    if rank > _MAX_RANKS[0]:
        limit = next((limit for limit in _MAX_RANKS if limit >= rank), rank)
        command += ["--max-lora-rank", str(limit)]
    modules = [
        f"{node}={target.absolute() / adapter['path']}"
        for adapter in adapters
        for node in (adapter["node"], *adapter.get("shared_by", ()))
    ]
    return shlex.join([*command, "--lora-modules", *modules])


def _copy(source: Path, target: Path, base: Base) -> dict[str, Any]:
    """Copy one adapter; returns its entry in the manifest."""
    target.mkdir()
    for name in _FILES:
        try:
            shutil.copyfile(source / name, target / name)
        except FileNotFoundError as error:
            raise FlowtuneError(
                f"{source / name} is missing. A run in training deletes its older checkpoints: try"
                " again."
            ) from error
    config = read_json(target / "adapter_config.json")
    config["base_model_name_or_path"] = base.loaded_from
    config["revision"] = base.revision
    write_json(target / "adapter_config.json", config)
    stored = json.loads((source / "flowtune.json").read_text(encoding="utf-8"))
    return {
        "node": source.name,
        "path": source.name,
        "rank": config["r"],
        "version": stored["version"],
        **_nonempty({"head": stored["head"], "shared_by": stored.get("shared", {})}),
    }


def _nonempty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
