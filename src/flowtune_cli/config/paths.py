"""Paths that users give: '~' is a home directory; what is relative belongs to where it is written.

In a settings file that is the file's own directory, everywhere else the current one. Settings hold
the absolute path, so that what a run stores means the same from everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from ..flow.paths import PathText, expanded, is_remote
from .layers import Origin
from .schema import without_none


def located(kind: Any, value: Any, origin: Origin) -> Any:
    """A setting's value with the paths in it made absolute; what is no path stays as it is.

    Args:
        kind: the setting's type, such as ``Path``, ``list[Path]`` or ``dict[str, Path] | None``.
        value: of that type, with paths or texts for paths.
        origin: who set it. What a task or a run says is made neither absolute nor relative.

    Raises:
        UsageError: it is in the home directory of a user who is not there.
    """
    kind = without_none(kind)
    if kind is Path and isinstance(value, (str, Path)):
        return type(value)(_absolute(Path(value), origin))
    if kind is PathText:
        return value if is_remote(value) else str(_absolute(Path(value), origin))
    inner = get_args(kind)
    if isinstance(value, Mapping) and get_origin(kind) in (dict, Mapping):
        return {name: located(inner[1], each, origin) for name, each in value.items()}
    if isinstance(value, (list, tuple)) and inner:
        kinds = inner if get_origin(kind) is tuple and inner[-1] is not ... else inner[:1]
        kinds = kinds * len(value) if len(kinds) == 1 else kinds
        pairs = zip(kinds, value, strict=False)
        return type(value)(located(each, one, origin) for each, one in pairs)
    return value


def located_model(name: str, origin: Origin) -> str:
    """The setting ``model.name``, absolute where it is a directory or a GGUF file.

    Raises:
        UsageError: it is in the home directory of a user who is not there.
    """
    path = _absolute(Path(name), origin)
    return str(path) if name and (is_path(name) or path.exists()) else name


def is_path(name: str) -> bool:
    """Whether a model's name can be nothing but a path, though it may lead nowhere."""
    begins = re.match(r"[./~\\]", name) is not None or Path(name).is_absolute()
    return begins or "\\" in name or name.count("/") > 1 or name.lower().endswith(".gguf")


def _absolute(path: Path, origin: Origin) -> Path:
    path = expanded(path)
    if origin.rank == 0:
        return path
    base = Path(origin.text).parent if origin.layer == "file" else Path()
    return (base / path).absolute()
