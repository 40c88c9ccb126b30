"""What ``flowtune_cli`` exports: all of it documented, typed, and imported quickly."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import flowtune_cli
import flowtune_cli.testing
from support.markdown_blocks import REPOSITORY


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(thing: Any) -> Iterator[FunctionType]:
    """A function, or the public methods and properties that a class defines itself."""
    if inspect.isfunction(thing):
        yield thing
    elif inspect.isclass(thing):
        for name, member in vars(thing).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield function


PUBLIC = [
    (module, name) for module in (flowtune_cli, flowtune_cli.testing) for name in module.__all__
]


@pytest.mark.parametrize("name", flowtune_cli.__all__)
def test_every_name_is_described(name: str, reference: ModuleType) -> None:
    assert len(reference.about(name)) > 10


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_every_function_and_method_is_typed_and_documented(module: ModuleType, name: str) -> None:
    for function in functions(getattr(module, name)):
        owner = getattr(module, name)
        inherited = getattr(owner, function.__name__, None)
        assert inspect.getdoc(inherited if inspect.isclass(owner) else function), function
        if function.__module__.startswith("flowtune_cli"):
            parameters = inspect.signature(function).parameters
            missing = {*parameters} - {"self", "cls"} - {*function.__annotations__}
            assert not missing, (function, missing)
            assert "return" in function.__annotations__, function


@pytest.mark.parametrize("package", ["flowtune_cli", "flowtune_musique", "flowtune_toyqa"])
def test_the_packages_are_typed(package: str) -> None:
    [place] = importlib.util.find_spec(package).submodule_search_locations  # type: ignore
    assert (Path(place) / "py.typed").is_file()
