"""Plugins that are really installed for a test: modules and dist-info on ``sys.path``."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import pytest

from flowtune_cli.config.layers import tomllib

_numbers = itertools.count()

HOPQA = '''
from typing import ClassVar, Literal
from pydantic import BaseModel, Field
from flowtune_cli import Generate, Judge, Preset, Rank, Task, Template, hookimpl


class HopSettings(BaseModel):
    """How the questions are."""

    hops: int = Field(2, ge=1, description="Facts that a question needs.")
    style: Literal["plain", "odd"] = "plain"


class HopQA(Task):
    name = "hop-qa"
    summary = "questions in hops"
    Settings = HopSettings
    gate = "f1"
    defaults = {
        "training.batch_size": 4,
        "learning.optimizer": {"name": "cocob", "alpha": 10.0},
    }
    presets = [
        Preset(
            "small",
            "for little models",
            {
                "learning.optimizer": {"name": "adam", "lr": 0.01},
                "training.save_every": 7,
                "style": "odd",
                "nodes.query.optimizer": {"lr": 0.001},
            },
            models=["little", "smaller"],
        ),
        Preset("large", "for large models", {"model.quantization": "nf4"}),
    ]

    @classmethod
    def default_nodes(cls, settings):
        return [
            Generate(
                name="query",
                prompt=Template("Ask about {question}", system="Be brief."),
                reward="f1",
                exploration={"name": "diverse_beam", "penalty": 2.0},
                max_new_tokens=20 * settings.hops,
            ),
            Judge(name="stop", prompt=Template("Enough? {found}"), reward="f1"),
        ]

    def examples(self, source, split):
        return []

    async def run(self, episode, example):
        return {}


class Plain(Task):
    name = "plain"
    nodes = [Rank(name="best", prompt=Template("{candidate}"))]

    def examples(self, source, split):
        return []

    async def run(self, episode, example):
        return {}


@hookimpl
def register_tasks(register):
    register(HopQA)
    register(Plain)
'''

MODEL = """
from pathlib import Path
from flowtune_cli import ModelSource, hookimpl


class Small(ModelSource):
    name = "small"
    summary = "a small model"
    directory = Path(r"{directory}")

    def is_ready(self):
        return (self.directory / "config.json").is_file()

    def fetch(self, *, verify=False):
        print("verified" if verify else "fetched")
        return self.directory


class Missing(Small):
    name = "missing"
    directory = Path("nowhere")


@hookimpl
def register_models(register):
    register(Small())
    register(Missing())
"""
"""Two models: "small" is ready once ``directory`` has a configuration, "missing" never is."""


def install_package(folder: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin as ``pip install -e FOLDER`` would, and let no other plugin be loaded.

    Args:
        site: an empty directory, for the distribution's metadata.
    """
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = project["entry-points"]["flowtune"]
    lines = ["[flowtune]", *(f"{name} = {module}" for name, module in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("FLOWTUNE_PLUGINS", ",".join(points))


class Site:
    """A directory on ``sys.path``. Only what is installed here, and flowtune itself, is loaded."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._monkeypatch = monkeypatch
        self._names: list[str] = []
        monkeypatch.syspath_prepend(str(path))
        self._narrow()

    def install(self, name: str, source: str, *, version: str = "1.0", target: str = "") -> None:
        """Install the distribution ``NAME-dist`` with one plugin, whose module is ``source``.

        ``target`` is what in the module the entry point names, such as ``:Plugin``.
        """
        module = f"{name}_module_{next(_numbers)}"
        (self.path / f"{module}.py").write_text(source, encoding="utf-8")
        info = self.path / f"{name}_dist-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        points = f"[flowtune]\n{name} = {module}{target}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        self._names.append(name)
        self._narrow()

    def environ(self) -> dict[str, str]:
        """The environment for a process that shall see these plugins."""
        path = os.pathsep.join([str(self.path), *sys.path])
        # Unbuffered, a process would not find out at its end that nobody reads its output.
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": ""}

    def _narrow(self) -> None:
        self._monkeypatch.setenv("FLOWTUNE_PLUGINS", ",".join(self._names))
