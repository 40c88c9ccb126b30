"""A preset: settings of a task that suit a purpose or a model, under a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NO_PRESET = "none"
"""The name that asks for no preset."""


@dataclass(frozen=True)
class Preset:
    """Settings that ``--preset NAME`` puts between a task's defaults and the settings file.

    Args:
        name: by which it is chosen; "none" is taken.
        summary: one line for ``flowtune show TASK``.
        settings: ``{"section.key": value}`` as in ``Task.defaults``; any other key is one of the
            task's own, such as "ranking" or "nodes.retrieve.optimizer".
        models: base models, as ``model.name`` has them, with which this preset is the default.

    Raises:
        ValueError: the name is "none", or ``model.name`` is set, which decides on the preset.
    """

    name: str
    summary: str
    settings: Mapping[str, Any]
    models: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.name == NO_PRESET:
            raise ValueError(f"a preset cannot be called '{NO_PRESET}', which asks for no preset")
        if "model.name" in self.settings:
            raise ValueError(f"preset '{self.name}' cannot set model.name: set 'models' instead")
