"""Digests of examples: which one differs, and what cannot be digested is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runs.example_digests import (
    ExampleDigest,
    difference,
    digest_of_all,
    example_digests,
    read_digests,
    write_digests,
)


def examples(ids: str = "abc", **inputs: Any) -> list[Example]:
    return [Example(each, {"question": f"about {each}", **inputs}, gold=each) for each in ids]


def digests(given: list[Example]) -> list[ExampleDigest]:
    return example_digests(given, pytest.fail)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (examples(), None),
        (examples(documents=["x"]), "example 'a' has other inputs now"),
        ([*examples("ab"), Example("c", {"question": "about c"}, "d")], "'c' has other gold now"),
        ([*examples("ab"), Example("c", {}, "d")], "'c' has other inputs and gold now"),
        (examples("ac"), "example 'b' is no longer there"),
        (examples("abdc"), "example 'd' was not there"),
        (examples("acb"), "number 2 was example 'b' and is 'c' now"),
    ],
)
def test_the_first_example_that_differs_is_named(now: list[Example], said: str | None) -> None:
    found = difference(digests(examples()), digests(now))
    assert found is None if said is None else found is not None and found.endswith(said)
    assert (digest_of_all(digests(now)) == digest_of_all(digests(examples()))) == (said is None)


def test_of_drawn_examples_one_that_is_not_drawn_now_is_still_there() -> None:
    found = difference(digests(examples("ab")), digests(examples("ac")), set("abc"))
    assert found == "number 2 was example 'b' and is 'c' now"
    found = difference(digests(examples("ab")), digests(examples("ac")), set("acd"))
    assert found == "example 'b' is no longer there"


def test_digests_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    given = digests([*examples(), Example('q"\u2028\n', {}, None)])
    write_digests(file, given)
    assert read_digests(file) == given
    for bad in ("[1]\n", "1\n", "{\n"):
        file.write_text(bad)
        with pytest.raises(UsageError, match=r"examples\.jsonl does not hold the digests"):
            read_digests(file)


def test_what_has_no_digest_is_named_once_and_the_rest_counts() -> None:
    def with_function(ids: str, extra: Callable[[], int]) -> tuple[list[ExampleDigest], list[str]]:
        notes: list[str] = []
        return example_digests(examples(ids, extra=extra), notes.append), notes

    then, notes = with_function("abc", lambda: 1)
    [said] = notes
    assert said.startswith("input 'extra' of example 'a' has no digest, because it holds the funct")
    assert then == with_function("abc", lambda: 2)[0]
    assert then[:2] == with_function("abd", lambda: 2)[0][:2] != digests(examples("ab"))
