"""A choice by name, with or without options."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.named import name_and_options


def test_a_string_is_short_for_a_name_without_options() -> None:
    assert name_and_options("adam") == ("adam", {})
    assert name_and_options({"name": "adam"}) == ("adam", {})


def test_a_table_holds_the_name_and_the_options() -> None:
    value = {"name": "adam", "lr": 0.1, "eps": 1e-6}
    assert name_and_options(value) == ("adam", {"lr": 0.1, "eps": 1e-6})
    assert value["name"] == "adam", "the table is as it was"


@pytest.mark.parametrize("wrong", [{}, {"lr": 0.1}, {"name": 3}, {"name": None}])
def test_a_table_needs_a_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no name: write"):
        name_and_options(wrong)
