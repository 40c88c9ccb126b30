"""``flowtune doctor``: what a person who helps needs to know about this machine."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import stdout
from .options import JsonOption
from .output import print_json
from .plugin_commands import fully_loaded_registry
from .sizes import bytes_text, size_of

if TYPE_CHECKING:
    from ..registry import Registry

PACKAGES = (
    "flowtune",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "gguf",
    "parameterfree",
    "tomli",
    "textual",
    "typer",
    "pluggy",
)


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Describe the installation and the machine, to be pasted where help is asked for."""
    registry = fully_loaded_registry(context)
    report = {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "packages": _packages(),
        "devices": _devices(),
        "memory": _memory(),
        "models": _models(registry),
        "engine": _engine(),
        "plugins": _plugins(registry),
    }
    if json:
        print_json(report)
    else:
        _print(report)


def _packages() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _devices() -> dict[str, Any]:
    """What torch finds, and how fast it multiplies."""
    from ..models import devices as probe

    found: dict[str, Any] = {"cuda": probe.cuda_version() or "this torch is built without it"}
    for device in probe.devices():
        about = {"description": device.description}
        if device.memory:
            about["memory"] = bytes_text(device.memory)
        about["model.dtype = 'auto' is"] = device.dtype
        for dtype, speed in probe.speeds(device.name).items():
            about[dtype] = f"{speed:.0f} GFLOP/s"
        found[device.name] = about
    return {**found, "cpu features": " ".join(probe.cpu_features()) or "unknown"}


def _memory() -> dict[str, str]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total": bytes_text(memory.total), "available": bytes_text(memory.available)}


def _models(registry: Registry) -> dict[str, str]:
    """Where models are kept, how much that is, and how much room is left."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from ..flow.model_source import cache_directory

    registered = {}
    for name in registry.entries("model"):
        source = registry.model(name)
        size = (
            f" ({bytes_text(size_of(source.directory))})" if source.is_ready() else " (not ready)"
        )
        registered[name] = f"{source.directory}{size}"
    hub, cache = Path(HF_HUB_CACHE), cache_directory()
    return {
        **registered,
        "hub cache": f"{hub} ({bytes_text(size_of(hub))})",
        "free in the cache": bytes_text(shutil.disk_usage(_existing(cache)).free),
        "free in this directory": bytes_text(shutil.disk_usage(Path.cwd()).free),
    }


def _engine() -> dict[str, str]:
    """How the models that were loaded on this machine are run."""
    from ..engine.remembered import remembered

    return remembered() or {"none": "a model is proved when it is first loaded"}


def _plugins(registry: Registry) -> dict[str, Any]:
    return {
        str(plugin): [p.error for p in registry.problems if p.plugin == plugin] or "no problems"
        for plugin in registry.plugins
    }


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _print(report: Mapping[str, Any], indent: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, Mapping):
            stdout.write(f"{indent}{name}:")
            _print(value, indent + "  ")
        elif isinstance(value, list):
            stdout.write(f"{indent}{name}:")
            for item in value:
                stdout.write(f"{indent}  - {item}")
        else:
            stdout.write(f"{indent}{name}: {value}")
