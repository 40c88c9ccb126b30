"""What ``--rename`` says."""

from __future__ import annotations

import pytest

from flowtune_cli.cli.renamed_nodes import parse_renamed
from flowtune_cli.flow.errors import UsageError


def test_names_by_the_new_one() -> None:
    assert parse_renamed(["old=new", " a = b "]) == {"new": "old", "b": "a"}
    assert parse_renamed(["a=b", "b=a"]) == {"b": "a", "a": "b"}


@pytest.mark.parametrize("options", [["a"], ["=b"], ["a="], ["a=b", "a=c"], ["a=c", "b=c"]])
def test_what_is_none(options: list[str]) -> None:
    with pytest.raises(UsageError, match="--rename"):
        parse_renamed(options)
