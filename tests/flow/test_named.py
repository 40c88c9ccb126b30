"""A choice by name, with or without options."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.named import named


def test_a_string_is_short_for_a_name_without_options() -> None:
    assert named("adam") == ("adam", {})
    assert named({"name": "adam"}) == ("adam", {})


def test_a_table_holds_the_name_and_the_options() -> None:
    value = {"name": "adam", "lr": 0.1, "eps": 1e-6}
    assert named(value) == ("adam", {"lr": 0.1, "eps": 1e-6})
    assert value["name"] == "adam", "the table is as it was"


@pytest.mark.parametrize("wrong", [{}, {"lr": 0.1}, {"name": 3}, {"name": None}])
def test_a_table_needs_a_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs a name and its options"):
        named(wrong)
