"""constraints-lowest.txt pins what pyproject.toml allows at least, so those bounds are tested."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from flowtune_cli.config.layers import tomllib
from support.markdown_blocks import REPOSITORY


def pinned() -> dict[str, Version]:
    lines = (REPOSITORY / "constraints-lowest.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in found}


def required() -> dict[str, Version]:
    text = (REPOSITORY / "pyproject.toml").read_text()
    found = [Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"]]
    return {
        canonicalize_name(r.name): Version(str(r.specifier).removeprefix(">="))
        for r in found
        # Python before 3.11 alone, where the oldest versions are not tried.
        if r.name != "tomli"
    }


def test_every_dependency_is_tried_at_its_lower_bound() -> None:
    assert pinned() == required()


@pytest.mark.parametrize("plugin", ["musique", "smollm2", "toyqa"])
def test_our_plugins_can_be_installed_beside_them(plugin: str) -> None:
    text = (REPOSITORY / "plugins" / plugin / "pyproject.toml").read_text()
    for line in tomllib.loads(text)["project"].get("dependencies", []):
        requirement = Requirement(line)
        version = pinned().get(canonicalize_name(requirement.name))
        assert version is None or version in requirement.specifier, line


@pytest.mark.parametrize("name", ["torch", "transformers", "peft"])
def test_what_is_developed_with_is_no_older(name: str) -> None:
    assert Version(version(name)) >= required()[name]
