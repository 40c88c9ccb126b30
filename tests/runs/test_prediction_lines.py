"""Which line is whose: lines are found by id and digest, and what does not fit is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.errors import DataError
from flowtune_cli.runs.prediction_lines import fit


def keys(*names: str) -> list[dict[str, str]]:
    """``"a1"``: id a, digest 1."""
    return [{"id": name[0], "digest": name[1:]} for name in names]


def lines(*names: str) -> list[dict[str, str]]:
    """Each with its number; ``"a"`` has no digest."""
    return [
        {"id": name[0], "n": str(n), **({"digest": name[1:]} if name[1:] else {})}
        for n, name in enumerate(names)
    ]


def numbers(found: list[dict[str, str]]) -> str:
    return "".join(line["n"] for line in found)


DATA = keys("a1", "a2", "b1", "b2", "c1")


@pytest.mark.parametrize(
    "given",
    [("a1", "a2", "b1", "b2", "c1"), ("a", "a", "b", "b", "c"), ("a", "a2", "b1", "b", "c")],
)
def test_lines_in_order_are_taken_as_they_are(given: tuple[str, ...]) -> None:
    for reorder in (True, False):
        assert fit(DATA, lines(*given), reorder=reorder) == (lines(*given), [])


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (("c1", "b2", "b1", "a2", "a1"), "43210"),
        (("a2", "a1", "b1", "b2", "c1"), "10234"),
        (("c", "a", "b", "a", "b"), "13240"),
        (("a", "a1", "b", "b1", "c"), "10324"),
    ],
)
def test_lines_in_another_order_are_put_right_only_if_wanted(
    given: tuple[str, ...], order: str
) -> None:
    found, notes = fit(DATA, lines(*given), reorder=True)
    assert numbers(found) == order
    assert "predictions were put in the order of the data" in notes[0]
    with pytest.raises(DataError, match=r"another order than the data.*--reorder puts them right"):
        fit(DATA, lines(*given), reorder=False)


def test_the_first_line_out_of_order_is_named() -> None:
    with pytest.raises(
        DataError,
        match=r"3 of 5 predictions are in another order than the data: number 3 is of 'c',"
        r" and that of 'b' should stand there, which is number 4\.",
    ):
        fit(DATA, lines("a1", "a2", "c1", "b1", "b2"), reorder=False)


def test_lines_that_nothing_tells_apart_keep_their_order_and_that_is_said() -> None:
    found, notes = fit(DATA, lines("c", "b", "b", "a1", "a"), reorder=True)
    assert numbers(found) == "34120"
    assert notes[1].startswith("1 ids stand more than once, in lines that lack 'digest'")
    assert notes[1].endswith("keep their order: 'b'")
    _, notes = fit([{"id": "x"}, {"id": "y"}], [{"id": "y"}, {"id": "x"}], reorder=True)
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a", "a", "b", "b"), r"no line for 1 of 5 examples: 'c'\. "),
        (("a", "a", "b", "b", "c", "d"), r"data: 1 of 6 lines are of no example: 'd'\. "),
        (("a", "b", "b", "c", "c"), r"no line .* 'a'; 1 of 5 lines are of no example: 'c'\. "),
        (("a1", "a3", "b", "b", "c"), r"'a'; 1 of 5 .*: 'a'; 'digest' of 'a' differs from the da"),
        (("a1", "a1", "b", "b", "c"), r"'digest' of 'a' differs"),
        ((), r"no line for 5 of 5 examples: 'a', 'a', 'b', 'b', 'c'\. "),
    ],
)
@pytest.mark.parametrize("reorder", [True, False])
def test_lines_that_do_not_fit_are_named(given: tuple[str, ...], said: str, reorder: bool) -> None:
    with pytest.raises(DataError, match=said):
        fit(DATA, lines(*given), reorder=reorder)


def test_long_lists_are_cut() -> None:
    data = [{"id": f"q{number}"} for number in range(20)]
    with pytest.raises(DataError, match=r"20 of 20 examples: 'q0', .*'q4' and 15 more"):
        fit(data, [], reorder=True)


@pytest.mark.parametrize("bad", [{}, {"id": 1}, {"id": None}, {"id": ["a"]}])
def test_a_line_without_id_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match="prediction 2 has no 'id' that is a text"):
        fit([{"id": "a"}, {"id": "b"}], [{"id": "a"}, bad], reorder=True)


@given(st.lists(st.sampled_from("abc"), max_size=6), st.data())
def test_any_order_is_put_right(ids: list[str], data: st.DataObject) -> None:
    wanted = [
        {"id": name, "digest": str(ids[:place].count(name))} for place, name in enumerate(ids)
    ]
    shuffled = data.draw(st.permutations(wanted))
    found, _ = fit(wanted, [dict(line) for line in shuffled], reorder=True)
    assert found == wanted
    # Without digests, the lines of one id keep their order.
    plain = [{"id": line["id"], "place": place} for place, line in enumerate(shuffled)]
    found, _ = fit(wanted, plain, reorder=True)
    assert [line["id"] for line in found] == ids
    for name in set(ids):
        places = [line["place"] for line in found if line["id"] == name]
        assert places == sorted(places)
