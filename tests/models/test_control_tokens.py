"""Control tokens that a text spells out, and which of them its author meant."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from flowtune_cli.flow.prompt import Segment
from flowtune_cli.models.control_tokens import ControlTokens
from support.tokenizers import make_tokenizer


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer("prepend")


def data(*texts: str) -> list[Segment]:
    return [Segment(text) for text in texts]


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        (("nothing <here>, </ s>",), []),
        (("</s>",), [0]),
        (("a</s>b<|im_end|>",), [1, 6]),
        (("a<", "/s", ">"), [1]),  # put together from parts
    ],
)
def test_where_data_spells_them_out(tokenizer: Any, texts: tuple[str], places: list[int]) -> None:
    assert ControlTokens(tokenizer, "").spelled(data(*texts)) == places


def test_what_the_author_wrote_is_meant(tokenizer: Any) -> None:
    controls = ControlTokens(tokenizer, "")
    said = [Segment("<s>", authored=True), Segment("a<s>"), Segment("</", authored=True)]
    assert controls.spelled(said) == [4]
    assert controls.spelled([*said, Segment("s>", authored=True)]) == [4]
    assert controls.spelled([*said, Segment("s>")]) == [4, 7]


def test_overlapping_tokens_are_all_found(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a<b>", "<b>>"]})
    assert ControlTokens(tokenizer, "").spelled(data("<a<b>>")) == [0, 2]


def test_of_other_added_tokens_those_of_the_template_steer_the_model(tokenizer: Any) -> None:
    added = ["<think>", "<table>", "user", "  "]
    tokenizer.add_tokens([AddedToken(text, special=False) for text in added])
    controls = ControlTokens(tokenizer, "{{ '<think>' }}  user")
    assert controls.spelled(data("<table> user  ")) == []
    assert controls.spelled(data("so: <think>")) == [4]
    # Decoding keeps those, so they are in the text.
    assert not controls.has_special("<think>")
    assert controls.has_special("a</s>")
    assert controls.without_special("a</s>b<think>") == "ab<think>"


def test_at_the_ends_of_a_text(tokenizer: Any) -> None:
    swallowing = AddedToken("<|end|>", special=True, rstrip=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [swallowing]})
    controls = ControlTokens(tokenizer, "")
    assert controls.at_start("</s>\n") == tokenizer.eos_token_id
    assert controls.at_start(" </s>") is None
    assert [controls.at_end(text) for text in ("a</s>", "a</s>\n", "a")] == ["</s>", "", ""]
    assert controls.at_end("a<|end|>\n ") == "<|end|>\n "


def test_a_tokenizer_without_any() -> None:
    controls = ControlTokens(object(), "")
    assert controls.spelled(data("</s>")) == []
    assert (controls.at_start("</s>"), controls.at_end("</s>")) == (None, "")
    assert (controls.has_special("</s>"), controls.without_special("</s>")) == (False, "</s>")
