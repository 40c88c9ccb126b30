"""Imports a function from a file, ``flow.py:run``, as Python would run the file as a script."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..flow.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class FunctionPlace:
    """Where a function is: in a file, or in a module that is looked for from a directory on.

    Args:
        path: the file; or the directory and, as its last part, the module's dotted name.
    """

    path: Path
    name: str

    @property
    def is_file(self) -> bool:
        return self.path.suffix == ".py"

    @property
    def directory(self) -> Path:
        """What is put before the other directories that modules are looked for in."""
        return self.path.parent

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def is_function(text: str) -> bool:
    """Whether a text may be a function's place, and no task's name."""
    return ":" in text


def function_place(text: str) -> FunctionPlace:
    """Where ``flow.py:run`` or ``package.module:run`` is.

    Raises:
        UsageError: the text is neither.
    """
    path, _, name = text.rpartition(":")
    if not path or not name.isidentifier():
        raise UsageError(
            f"'{text}' is no function: write FILE.py:FUNCTION, such as flow.py:run, or"
            " PACKAGE.MODULE:FUNCTION"
        )
    return FunctionPlace(Path(path).absolute(), name)


def load_function(text: str) -> Callable[..., Any]:
    """Import a function.

    Raises:
        UsageError: the file or function is not there, or the import fails; says in which line.
    """
    place = function_place(text)
    if place.is_file and not place.path.is_file():
        raise UsageError(f"there is no file {place.path}")
    directory = str(place.directory)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = _from_file(place.path) if place.is_file else _from_name(place)
    except UsageError:
        raise
    # SystemExit, too: a script that ends itself may not end flowtune.
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{_line(error, place.path)}: cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, place.name, None)
    if not callable(found):
        names = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        listing = ", ".join(names) or "none"
        what = "has no function" if found is None else "has something else as"
        raise UsageError(
            f"{place.path} {what} '{place.name}'.{did_you_mean(place.name, names)}"
            f" Its functions: {listing}."
        )
    return found  # type: ignore[no-any-return]


def source_file(text: str) -> Path | None:
    """The file that a function is in, whether it was imported or not; None where it is unknown."""
    place = function_place(text)
    if place.is_file:
        return place.path
    parts = place.path.name.split(".")
    for path in (
        place.directory.joinpath(*parts).with_suffix(".py"),
        place.directory.joinpath(*parts, "__init__.py"),
    ):
        if path.is_file():
            return path
    return None


def _from_file(path: Path) -> ModuleType:
    """The module of a file; imported once, as other modules of its folder import it."""
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(path):
        digest = hashlib.sha256(str(path).encode("utf-8", "surrogatepass")).hexdigest()
        name = f"{name}_{digest[:8]}"
        known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _from_name(place: FunctionPlace) -> ModuleType:
    name = place.path.name
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"there is no module '{name}', neither installed nor in {place.directory}"
        ) from None


def _line(error: BaseException, path: Path) -> str:
    """The file and line where an import failed: the innermost of the user's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename != __file__
    ]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(path.parent)]
    for frame in reversed(own or frames):
        return f"{frame.filename}, line {frame.lineno}"
    return str(path)
