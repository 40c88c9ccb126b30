"""What of an answer is certain while it is written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.gateway.partial_text import PartialText

END = 300


class Bytes:
    """A token a byte; 300 is a special token."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(each for each in ids if each != END).decode("utf-8", "replace")

    def whole_text(self, ids: Sequence[int]) -> str:
        parts = [[]]  # type: ignore[var-annotated]
        for each in ids:
            parts.append([]) if each == END else parts[-1].append(each)
        return "<end>".join(bytes(part).decode("utf-8", "replace") for part in parts)


def pieces(text: PartialText, ids: Sequence[int]) -> list[str]:
    return [text.add([each]) for each in ids]


def test_letters_come_one_by_one() -> None:
    assert pieces(PartialText(Bytes()), b"abc") == ["a", "b", "c"]


def test_half_a_letter_is_held_back() -> None:
    assert pieces(PartialText(Bytes()), "aé→!".encode()) == ["a", "", "é", "", "", "→", "!"]


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    text = PartialText(Bytes(), ("\n\n", "STOP"))
    assert pieces(text, b"a\nbST") == ["a", "", "\nb", "", ""]
    assert pieces(text, b"x\n") == ["STx", ""]
    # From here on it is the stop string.
    assert pieces(text, b"\nabc") == ["", "", "", ""]
    assert text.rest("a\nbSTx") == ""


def test_a_stop_string_may_have_special_tokens() -> None:
    text = PartialText(Bytes(), ("Q<end>",))
    assert pieces(text, [*b"aQ", *b"bQ", END]) == ["a", "", "Qb", "", ""]
    assert text.rest("aQb") == ""


def test_white_space_around_an_answer_is_left_out() -> None:
    text = PartialText(Bytes(), stripped=True)
    assert pieces(text, b" \na b \n") == ["", "", "a", "", " b", "", ""]
    assert text.rest("a b") == ""


def test_an_answer_that_is_another_is_noticed() -> None:
    text = PartialText(Bytes())
    assert pieces(text, b"ab") == ["a", "b"]
    assert text.rest("abc") == "c"
    assert text.rest("xb") is None


def cut(text: str, stops: Sequence[str]) -> str:
    """As the engine ends an answer: token by token."""
    return min([text.partition(stop)[0] for stop in stops], key=len, default=text)


@given(
    st.binary(max_size=12) | st.text(max_size=8).map(str.encode),
    st.lists(st.text("ab\n é", min_size=1, max_size=3), max_size=2),
    st.booleans(),
)
def test_pieces_and_the_rest_make_up_the_answer(
    ids: bytes, stops: list[str], stripped: bool
) -> None:
    tokens = Bytes()
    text = PartialText(tokens, stops, stripped)
    got, end = "", len(ids)
    for place in range(len(ids)):
        got += text.add(ids[place : place + 1])
        if any(stop in tokens.decode(ids[: place + 1]) for stop in stops):
            end = place + 1
            break
    answer = cut(tokens.decode(ids[:end]), stops)
    answer = answer.strip() if stripped else answer
    rest = text.rest(answer)
    assert rest is not None
    assert got + rest == answer


@pytest.mark.parametrize("stops", [(), ("zz",)])
def test_many_tokens_at_once_are_as_one_after_the_other(stops: tuple[str, ...]) -> None:
    text = PartialText(Bytes(), stops)
    assert text.add(b"hello") + text.add(b" you") == "hello you"
