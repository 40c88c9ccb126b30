"""The layers of settings: defaults, task, preset, file, environment, command line.

Each layer maps keys to values with their origins. A later layer overrides the earlier ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..flow.errors import DataError, UsageError
from ..flow.text_files import read_text
from .settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "FLOWTUNE_"

Key = tuple[str, ...]
"""``("training", "seed")``."""

LayerName = Literal["default", "task", "preset", "run", "file", "environment", "command line"]
_USER_LAYERS: tuple[LayerName, ...] = ("file", "environment", "command line")


@dataclass(frozen=True)
class Origin:
    """Where a value was set.

    Args:
        layer: "run" is a run's settings.json.
        text: as it is printed: "flowtune.toml", "--seed", "environment FLOWTUNE_MODEL__NAME".
        run: the run for which it was set there, when another run continues that one.
    """

    layer: LayerName
    text: str
    run: str | None = None

    def __str__(self) -> str:
        return self.text if self.run is None else f"{self.text} (run {self.run})"

    @property
    def rank(self) -> int:
        """Which of two origins overrides the other; 0 is what no user set."""
        return _USER_LAYERS.index(self.layer) + 1 if self.layer in _USER_LAYERS else 0

    def to_json(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


DEFAULT = Origin("default", "default")


@dataclass(frozen=True)
class Setting:
    """A value that was set.

    Args:
        text: as it was typed, where it was; it is the value where a string is wanted.
    """

    value: Any
    origin: Origin
    text: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it unsets what may be unset."""
        return self.value is None or self.value == ""


Layer = Mapping[Key, Setting]

Entry = tuple[Key, Setting]
"""What a layer sets in a table, and the names that lead there; none for the table itself."""


def from_task(task: str, values: Mapping[str, Any], origin: Origin) -> Layer:
    """The defaults or a preset of a task: ``{"section.key": value}``, or keys of its own."""
    layer = {}
    for name, value in values.items():
        key = tuple(name.split("."))
        if key[0] not in Settings.model_fields:
            key = ("tasks", task, *key)
        layer[key] = Setting(value, origin)
    return layer


def from_stored(values: Mapping[str, Any], origin: Origin) -> Layer:
    """Settings as a run stored them."""
    return {(name,): Setting(value, origin) for name, value in values.items()}


def from_file(file: Path) -> Layer:
    """A settings file.

    Raises:
        UsageError: it cannot be read, or it is not TOML.
    """
    try:
        document = tomllib.loads(read_text(file))
    except DataError as error:
        raise UsageError(f"the settings file {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is not a TOML file: {error}") from None
    return from_stored(document, Origin("file", str(file)))


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Variables such as ``FLOWTUNE_TRAINING__SEED``, and ``FLOWTUNE_PRESET``.

    Others without ``__`` are not settings. Upper and lower case are one, and ``_`` may be ``-``.
    """
    layer = {}
    for name in sorted(environ):
        upper, text = name.upper(), environ[name]
        key = tuple(upper.removeprefix(PREFIX).lower().split("__"))
        if upper.startswith(PREFIX) and (len(key) > 1 or key == ("preset",)):
            origin = Origin("environment", f"environment {name}")
            layer[key] = Setting(toml_or_text(text), origin, text)
    return layer


def from_overrides(overrides: Sequence[str]) -> Layer:
    """The values of ``--set``; of the same key, the last one counts.

    Raises:
        UsageError: one is not ``section.key=value``.
    """
    layer: dict[Key, Setting] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        key = tuple(part.strip() for part in name.split("."))
        if not equals or len(key) < 2 or not all(key):
            raise UsageError(
                f"--set wants section.key=value, such as training.seed=7: '{override}'"
            )
        layer.pop(key, None)  # The order counts: a table and a key in it may both be set.
        value = toml_or_text(text.strip())
        layer[key] = Setting(value, Origin("command line", "--set"), text.strip())
    return layer


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """The options that set one setting each; None was not given.

    ``training.limit`` is set by ``--limit``, ``model.name`` by ``--model``.
    """
    layer = {}
    for name, value in flags.items():
        key = tuple(name.split("."))
        option = (key[-2] if key[-1] == "name" else key[-1]).replace("_", "-")
        if value is not None:
            layer[key] = Setting(value, Origin("command line", f"--{option}"))
    return layer


def toml_or_text(text: str) -> Any:
    """A TOML value (``7``, ``[1, 2]``, ``{a = 1}``), or the text itself where it is none."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text
