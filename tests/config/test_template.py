"""The settings file that flowtune writes for its users."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowtune_cli.config.layers import tomllib
from flowtune_cli.config.resolve import resolve
from flowtune_cli.config.settings import SECTIONS, RunSettings, Settings, subsections
from flowtune_cli.config.template import template, toml_value
from flowtune_cli.registry import load_registry

REPOSITORY = Path(__file__).parents[2]


def uncommented() -> str:
    return re.sub(r"^#(?=\S)", "", template(), flags=re.MULTILINE)


def test_the_repository_has_it() -> None:
    assert (REPOSITORY / "flowtune.toml").read_text(encoding="utf-8") == template()


def test_as_it_is_it_sets_nothing() -> None:
    document = tomllib.loads(template())
    assert document == {
        **{name: {} for name in SECTIONS if "." not in name},
        "engine": {"vllm": {}},
        "training": {"evaluate": {}},
    }


def test_uncommented_it_holds_every_setting_with_its_default(tmp_path: Path) -> None:
    text = uncommented()
    document = tomllib.loads(text)
    for name, section in SECTIONS.items():
        table = document
        for part in name.split("."):
            table = table[part]
        assert list(table) == list(section.model_fields)
    assert document["preset"] == ""
    assert document["tasks"]["NAME"]["nodes"]["NODE"]["prompt"]["system"]
    file = tmp_path / "flowtune.toml"
    file.write_text(text.partition("[tasks.NAME]")[0], encoding="utf-8")
    resolved = resolve(None, file=file, environ={}, registry=load_registry())
    # What a file says is relative to it.
    assert resolved.settings == Settings(run=RunSettings(directory=tmp_path / "runs"))
    assert {origin.layer for origin in resolved.origins.values()} == {"file"}


def test_every_setting_is_described() -> None:
    text = " ".join(template().replace("\n# ", " ").split())
    for section in SECTIONS.values():
        for key, field in section.model_fields.items():
            if key in subsections(section):
                continue
            assert field.description, key
            assert " ".join(field.description.split()) in text
    assert max(map(len, template().splitlines())) <= 100


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'a "quoted" \\ text\nwith\tmore \x7f \u00e9 \u2028',
        [1, 2.5, "x"],
        {"a": 1, "odd key": {"b": [True, False]}},
        1e-08,
        1e22,
        float("inf"),
        -3,
        True,
    ],
)
def test_toml_values_are_read_back(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value
