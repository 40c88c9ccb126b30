"""A text behind another one has the tokens that it has as a part of the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.seam import Seam
from support.tokenizers import KINDS, SPACED, make_tokenizer

TOKENIZERS = {kind: make_tokenizer(kind) for kind in KINDS}


def seam_of(tokenizer: Any) -> Seam:
    return Seam(
        lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]),
        lambda ids: str(tokenizer.decode(list(ids))),
        "m",
    )


SEAMS = {kind: seam_of(tokenizer) for kind, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("kind", SPACED)
@pytest.mark.parametrize("text", ["Question", "\nQuestion", "Yes", "10", "|x|>", ".", "é"])
def test_a_continued_text_gets_no_space(kind: str, text: str) -> None:
    tokenizer, seam = TOKENIZERS[kind], SEAMS[kind]
    assert not seam.is_plain
    names = tokenizer.convert_ids_to_tokens(list(seam.encode(text)))
    assert not names[0].startswith(("▁", "Ġ"))
    alone = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith(("▁", "Ġ"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_that_a_text_begins_with_is_there_once(kind: str) -> None:
    tokenizer, seam = TOKENIZERS[kind], SEAMS[kind]
    spaces = "".join(tokenizer.convert_ids_to_tokens(list(seam.encode(" Yes"))))
    assert spaces.replace("Ġ", "▁") == "▁Yes"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unigram"])
@settings(max_examples=80)
@given(before=st.text(min_size=1, max_size=8), text=st.text(max_size=12))
def test_what_is_put_together_reads_as_one_text(kind: str, before: str, text: str) -> None:
    tokenizer, seam = TOKENIZERS[kind], SEAMS[kind]
    before = "x" + before
    ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    # Of the space that they put before a whole text, some keep it.
    assert tokenizer.decode([*ids, *seam.encode(text)]).removeprefix(" ") == before + text
    assert seam.decode(seam.encode(text)) == text


def test_what_a_tokenizer_does_not_know_is_not_lost() -> None:
    tokenizer, seam = TOKENIZERS["unigram"], SEAMS["unigram"]
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    assert seam.encode("\N{SNOWMAN}") == (unknown,)
    assert len(seam.encode("\N{SNOWMAN}Yes")) > 1


def test_where_texts_have_the_same_tokens_everywhere_nothing_changes() -> None:
    tokenizer, seam = TOKENIZERS["byte level"], SEAMS["byte level"]
    assert seam.is_plain
    for text in ("", "Question", " Yes", "\n\nwhy", "so  far"):
        assert list(seam.encode(text)) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_that_cannot_continue_a_text_is_refused() -> None:
    def shouting(text: str) -> tuple[int, ...]:
        return (len(text), *map(ord, text))  # each text says how long it is

    with pytest.raises(UsageError, match="tokenizer of 'm' changes a text that continues another"):
        Seam(shouting, lambda ids: "".join(map(chr, ids)), "m")


def test_a_text_that_merges_with_every_lead_is_an_error() -> None:
    def encode(text: str) -> tuple[int, ...]:
        if "!" in text[1:]:
            return (0, 1)
        return tuple(map(ord, " " + text))

    def decode(ids: tuple[int, ...]) -> str:
        return "".join(map(chr, ids)).removeprefix(" ")

    seam = Seam(encode, decode, "m")
    assert seam.encode("why") == tuple(map(ord, "why"))
    with pytest.raises(UsageError, match="tokenizer of 'm' cannot continue a text with 'a!'"):
        seam.encode("a!")
