"""Matches prediction lines with examples by ``example_id``, by id and by order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.errors import DataError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.task import Task
from flowtune_cli.runs.prediction_reader import match_lines


class Pairs(Task):
    """Several examples share an id: that of example "a1" is "a"."""

    name = "pairs"
    nodes = ()

    def examples(self, source: Any, split: str) -> Any:
        raise NotImplementedError

    async def run(self, episode: Any, example: Example) -> Any:
        raise NotImplementedError

    def prediction_id(self, example: Example) -> str:
        return example.id[0]


def examples(*names: str) -> list[Example]:
    return [Example(name) for name in names]


def lines(*names: str) -> list[dict[str, str]]:
    """Each with its number; ``"a"`` has no example_id."""
    return [
        {"id": name[0], "n": str(n), **({"example_id": name} if name[1:] else {})}
        for n, name in enumerate(names)
    ]


def match(data: list[Example], found: list[Any], *, reorder: bool) -> Any:
    return match_lines(Pairs(), data, found, reorder=reorder)


def numbers(found: list[dict[str, str]]) -> str:
    return "".join(line["n"] for line in found)


DATA = examples("a1", "a2", "b1", "b2", "c1")


@pytest.mark.parametrize(
    "names",
    [("a1", "a2", "b1", "b2", "c1"), ("a", "a", "b", "b", "c"), ("a", "a2", "b1", "b", "c")],
)
def test_lines_in_order_are_returned_unchanged(names: tuple[str, ...]) -> None:
    for reorder in (True, False):
        assert match(DATA, lines(*names), reorder=reorder) == (lines(*names), [])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("c1", "b2", "b1", "a2", "a1"), "43210"),
        (("a2", "a1", "b1", "b2", "c1"), "10234"),
        (("c", "a", "b", "a", "b"), "13240"),
        (("a", "a1", "b", "b1", "c"), "10324"),
    ],
)
def test_lines_in_another_order_are_sorted_only_with_reorder(
    names: tuple[str, ...], order: str
) -> None:
    found, notes = match(DATA, lines(*names), reorder=True)
    assert numbers(found) == order
    assert "predictions into the order of the data" in notes[0]
    with pytest.raises(DataError, match=r"not in the order of the data.*Use --reorder to sort"):
        match(DATA, lines(*names), reorder=False)


def test_the_first_line_out_of_order_is_named() -> None:
    with pytest.raises(
        DataError,
        match=r"3 of 5 predictions are not in the order of the data: number 3 should be for 'b1',"
        r" but is for 'c1'\.",
    ):
        match(DATA, lines("a1", "a2", "c1", "b1", "b2"), reorder=False)


def test_ambiguous_lines_keep_their_order_with_a_note() -> None:
    found, notes = match(DATA, lines("c", "b", "b", "a1", "a"), reorder=True)
    assert numbers(found) == "34120"
    assert notes[1].startswith("1 ids occur more than once, in lines without 'example_id'")
    assert notes[1].endswith("keep their order: 'b'")
    _, notes = match(examples("x", "y"), lines("y", "x"), reorder=True)
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("a", "a", "b", "b"), r"no line for 1 of 5 examples: 'c1'\. "),
        (("a", "a", "b", "b", "c", "d"), r"data: no example for 1 of 6 lines: 'd'\. "),
        (("a", "b", "b", "c", "c"), r"no line .* 'a2'; no example for 1 of 5 lines: 'c'\. "),
        (("a1", "a3", "b", "b", "c"), r"no line .* 'a2'; no example for 1 of 5 lines: 'a3'\. "),
        (("a1", "a1", "b", "b", "c"), r"no line .* 'a2'; no example for 1 of 5 lines: 'a1'\. "),
        ((), r"no line for 5 of 5 examples: 'a1', 'a2', 'b1', 'b2', 'c1'\. "),
    ],
)
@pytest.mark.parametrize("reorder", [True, False])
def test_lines_that_do_not_match_are_named(
    names: tuple[str, ...], error: str, reorder: bool
) -> None:
    with pytest.raises(DataError, match=error):
        match(DATA, lines(*names), reorder=reorder)


def test_long_lists_are_cut() -> None:
    data = examples(*(f"q{number}" for number in range(20)))
    with pytest.raises(DataError, match=r"20 of 20 examples: 'q0', .*'q4' and 15 more"):
        match(data, [], reorder=True)


@pytest.mark.parametrize("bad", [{}, {"id": 1}, {"id": None}, {"id": ["a"]}])
def test_a_line_without_id_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match="prediction 2 has no text in 'id'"):
        match(examples("a", "b"), [{"id": "a"}, bad], reorder=True)
    with pytest.raises(DataError, match="prediction 1 has no text in 'example_id'"):
        match(examples("a"), [{"id": "a", "example_id": 3}], reorder=True)


@given(st.lists(st.sampled_from("abc"), max_size=6), st.data())
def test_any_order_is_sorted(ids: list[str], data: st.DataObject) -> None:
    names = [f"{name}{ids[:place].count(name)}" for place, name in enumerate(ids)]
    shuffled = data.draw(st.permutations(names))
    found, _ = match(examples(*names), lines(*shuffled), reorder=True)
    assert [line["example_id"] for line in found] == names
    # Without example ids, the lines of one id keep their order.
    plain = lines(*(name[0] for name in shuffled))
    found, _ = match(examples(*names), plain, reorder=True)
    assert [line["id"] for line in found] == ids
    for name in set(ids):
        places = [int(line["n"]) for line in found if line["id"] == name]
        assert places == sorted(places)
