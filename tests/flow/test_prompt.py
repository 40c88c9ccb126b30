"""Templates and the prompts that they make."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.prompt import Message, Prompt, Segment, Template, as_texts


def said(text: str) -> Segment:
    """What the template's author wrote."""
    return Segment(text, authored=True)


def test_fields_are_filled_in() -> None:
    template = Template(user="Q: {question}\nAgain: {question}", system="Be {manner}.")
    prompt = template.render({"question": "why", "manner": "brief", "unused": 1}, node="n")
    assert prompt.messages == (
        Message("system", (said("Be "), Segment("brief"), said("."))),
        Message("user", (said("Q: "), Segment("why"), said("\nAgain: "), Segment("why"))),
    )
    assert prompt.text == "[system]\nBe brief.\n[user]\nQ: why\nAgain: why"
    assert prompt.chat


def test_plain_prompts_have_one_message_and_no_system() -> None:
    prompt = Template(user="Q: {q}", system="unseen", chat=False).render({"q": 1}, node="n")
    assert prompt.messages == (Message("text", (said("Q: "), Segment("1"))),)
    assert prompt.text == "Q: 1"
    assert not prompt.chat


def test_a_frozen_prefix_comes_first() -> None:
    template = Template(
        frozen_prefix="{docs}", user="\nQ: {q}", prefill=" A:", chat=False, truncate=("docs",)
    )
    prompt = template.render({"docs": ["one", "two"], "q": "why"}, node="n")
    assert [message.role for message in prompt.messages] == ["prefix", "text"]
    assert (prompt.frozen_prefix, prompt.text) == ("one\ntwo", "one\ntwo\nQ: why A:")
    assert prompt.messages[0].segments[0].truncatable
    assert template.fields == {"docs", "q"}
    assert Template("{q}", chat=False).render({"q": 1}, node="n").frozen_prefix == ""


def test_a_chat_has_no_frozen_prefix() -> None:
    with pytest.raises(UsageError, match="chat=False"):
        Template(frozen_prefix="{docs}", user="{q}")


def test_prefill_begins_the_answer() -> None:
    prompt = Template(user="{q}", prefill="About {q}:").render({"q": "it"}, node="n")
    assert prompt.prefill == "About it:"
    assert not prompt.authored_prefill
    assert Template(user="{q}", prefill="About").render({"q": 1}, node="n").authored_prefill
    assert prompt.text == "[user]\nit\n[assistant]\nAbout it:"


def test_a_part_of_an_input_is_shown() -> None:
    template = Template("{document.title}, {document.texts[0]}", chat=False)
    document = SimpleNamespace(title="T", texts=["one", "two"])
    prompt = template.render({"document": document}, node="n")
    assert prompt.text == "T, one"
    assert template.fields == {"document"}


@pytest.mark.parametrize("field", ["document.name", "document.texts[7]", "document[3]"])
def test_a_part_that_is_not_there_is_an_error(field: str) -> None:
    template = Template(f"{{{field}}}", chat=False)
    with pytest.raises(UsageError, match=re.escape(f"node 'n' asks for '{{{field}}}'")):
        template.render({"document": SimpleNamespace(texts=["one"])}, node="n")


def test_lists_become_a_segment_an_item() -> None:
    template = Template(user="{docs}|{q}", truncate=("docs",), separator="; ")
    prompt = template.render({"docs": ["one", 2, "three"], "q": ("a", "b")}, node="n")
    assert prompt.messages[0].segments == (
        Segment("one", truncatable=True),
        said("; "),
        Segment("2", truncatable=True),
        said("; "),
        Segment("three", truncatable=True),
        said("|"),
        Segment("a"),
        said("; "),
        Segment("b"),
    )
    assert prompt.messages[0].text == "one; 2; three|a; b"


def test_an_empty_list_shows_nothing() -> None:
    prompt = Template(user="[{docs}]").render({"docs": []}, node="n")
    assert prompt.messages[0].segments == (said("["), said("]"))


@pytest.mark.parametrize(
    ("value", "texts"), [("ab", ["ab"]), (None, ["None"]), ((1, 2), ["1", "2"])]
)
def test_as_texts(value: object, texts: list[str]) -> None:
    assert as_texts(value) == texts


@given(st.text(), st.text())
def test_inputs_are_shown_as_they_are(first: str, second: str) -> None:
    prompt = Template(user="{a}{b}", chat=False).render({"a": first, "b": [second]}, node="n")
    assert prompt.text == first + second  # braces in inputs are no fields


def test_literal_braces() -> None:
    prompt = Template(user='{{"answer": "{x}"}}', chat=False).render({"x": 1}, node="n")
    assert prompt.text == '{"answer": "1"}'


def test_reserve() -> None:
    template = Template(user="x")
    assert template.render({}, node="n", reserve=7).reserve == 7
    assert template.render({}, node="n").reserve == Prompt(()).reserve


def test_fields_are_known() -> None:
    template = Template(user="{a} {{b}} {c}", system="{d}", prefill="{a}{e}")
    assert template.fields == {"a", "c", "d", "e"}


@pytest.mark.parametrize(
    "template",
    [Template(user="{x}"), Template(user="", system="{x}"), Template(user="", prefill="{x}")],
)
def test_unknown_fields_name_node_field_and_inputs(template: Template) -> None:
    with pytest.raises(UsageError, match=r"node 'writer' asks for the field '\{x\}'") as error:
        template.render({"b": 1, "a": 1}, node="writer")
    assert "it gives: a, b." in str(error.value)
    with pytest.raises(UsageError, match="it gives: nothing"):
        template.render({}, node="writer")


@pytest.mark.parametrize("text", ["{", "}", "a {b", "a } b"])
def test_bad_templates(text: str) -> None:
    with pytest.raises(UsageError, match="prompt of node 'writer' is not a template"):
        Template(user=text).render({"b": 1}, node="writer")


@pytest.mark.parametrize("text", ["{b:.2f}", "{b!r}", "{b!r:>4}"])
def test_formatting_is_refused_instead_of_ignored(text: str) -> None:
    with pytest.raises(UsageError, match=r"node 'writer' formats its field '\{b\}'"):
        Template(user=text).render({"b": 0.5}, node="writer")


def test_json_in_a_template_gets_a_hint() -> None:
    with pytest.raises(UsageError, match=r"Write \{\{ and \}\} for literal braces"):
        Template(user='{"answer": 1}').render({"x": 1}, node="writer")
