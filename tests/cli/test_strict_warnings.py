"""Strict warnings are for flowtune and its plugins, and not for the libraries that they use."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from flowtune_cli.cli.strict_warnings import narrowed
from support.installed_plugins import Site

START = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"
LIBRARY = "import warnings\nwarnings.warn('the library is old', DeprecationWarning)\n"
PLUGIN = """
import warnings
from flowtune_cli import hookimpl
import some_library

@hookimpl
def register_commands(register):
    def careless() -> None:
        warnings.warn("the plugin is old", {category})
        print("done")

    register("careless", careless)
"""


def start(site: Site, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    before = [argument for argument in arguments if argument.startswith("-W")]
    command = [sys.executable, *before, "-c", START, "careless"]
    env = {**site.environ(), **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture(params=["DeprecationWarning", "UserWarning"])
def old(site: Site, request: pytest.FixtureRequest) -> Site:
    (site.path / "some_library.py").write_text(LIBRARY)
    site.install("old", PLUGIN.format(category=request.param))
    return site


@pytest.mark.parametrize(("option", "variable"), [("-Werror", ""), ("", "error")])
def test_a_library_may_warn_and_a_plugin_may_not(old: Site, option: str, variable: str) -> None:
    done = start(old, *filter(None, [option]), PYTHONWARNINGS=variable)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Warning: the plugin is old" in done.stderr.splitlines()[-1]
    assert "the library is old" not in done.stderr


def test_otherwise_nothing_changes(old: Site) -> None:
    assert start(old).stdout == "done\n"
    refused = start(old, "-Werror::DeprecationWarning:some_library")
    assert "No such command 'careless'" in refused.stderr


def test_only_what_is_an_error_for_all_is_narrowed() -> None:
    module = re.compile("torch")
    filters: list[Any] = [
        ("ignore", None, UserWarning, None, 0),
        ("error", None, Warning, None, 0),
        ("error", None, Warning, module, 0),
    ]
    first, second, third = narrowed(filters, ["flowtune_cli", "a.b"])
    assert (first, third) == (filters[0], filters[2])
    own = second[3]
    for name in ("flowtune_cli", "flowtune_cli.cli.main", "a.b"):
        assert own.match(name)
    for name in ("torch", "flowtune_client", "a", "axb"):
        assert not own.match(name)
