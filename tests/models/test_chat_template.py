"""Chat templates: which one, its options, its clock, what it writes behind an answer."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import chat_template
from flowtune_cli.models.chat_template import ChatTemplate, TextOptions
from support.tokenizers import make_tokenizer

ASK = [{"role": "user", "content": "Why?"}]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
THINKING = PLAIN + (
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    "{{ note }}{% endif %}"
)
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = 'never' %}"
    "{% endif %}{% endif %}Today: {{ date_string }}{{ strftime_now(' %A, %-d/%m')}}\n" + PLAIN
)


@pytest.fixture(scope="module")
def made() -> Any:
    return make_tokenizer("prepend")


def template(made: Any, source: Any, **options: Any) -> ChatTemplate:
    made.chat_template = source
    return ChatTemplate(made, TextOptions("org/name", **options))


# Options


def test_thinking_is_off_unless_asked_for(made: Any) -> None:
    assert template(made, THINKING).render(ASK) == "<user>Why?<assistant><think></think>"
    on = template(made, THINKING, template_options={"enable_thinking": True, "note": "!"})
    assert on.render(ASK) == "<user>Why?<assistant>!"
    assert template(made, PLAIN).render(ASK) == "<user>Why?"


def test_an_option_that_the_template_never_reads_is_an_error(made: Any) -> None:
    message = (
        r"unknown variable of the chat template of 'org/name' 'enable_thinkin'. Did you mean"
        r" 'enable_thinking'\? Known: enable_thinking, note\."
    )
    with pytest.raises(UsageError, match=message):
        template(made, THINKING, template_options={"enable_thinkin": True})
    with pytest.raises(UsageError, match="Known: none"):
        template(made, PLAIN, template_options={"messages": []})


def test_options_without_a_template_are_an_error(made: Any) -> None:
    assert template(made, None).source == ""
    with pytest.raises(UsageError, match=r"'org/name' has no chat template, so model"):
        template(made, None, template_options={"note": 1})


def test_tags_of_transformers_are_no_obstacle(made: Any) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}"
        "{%- generation %}{{ m.content }}{{ note }}{% endgeneration -%}{% endfor %}"
    )
    assert template(made, source, template_options={"note": "!"}).render(ASK) == "Why?!"


# Which one


def test_of_several_the_default_one_is_used_or_the_one_that_is_named(made: Any) -> None:
    several = {"default": "D{{ messages[0].content }}", "rag": "R{{ messages[0].content }}"}
    assert template(made, several).render(ASK) == "DWhy?"
    assert template(made, several, template_name="rag").render(ASK) == "RWhy?"
    with pytest.raises(UsageError, match=r"unknown chat template of 'org/name' 'rug'.*'rag'\?"):
        template(made, several, template_name="rug")
    del several["default"]
    message = r"'org/name' has several chat templates .* set model.chat_template to one of 'rag'"
    with pytest.raises(UsageError, match=message):
        template(made, several)


def test_a_name_where_there_is_one_template_is_an_error(made: Any) -> None:
    with pytest.raises(UsageError, match="'org/name' does not have several chat templates"):
        template(made, PLAIN, template_name="default")


# Broken ones


def test_a_template_that_fails_is_an_error_of_one_line(made: Any) -> None:
    message = r"^the chat template of 'org/name' fails on a chat of user: no\. Set .*\.$"
    with pytest.raises(UsageError, match=message):
        template(made, "{{ raise_exception('no\nway') }}")
    cannot_be_read = r"^the chat template of 'org/name' cannot be read: .* \(line 2\); take .*$"
    with pytest.raises(UsageError, match=cannot_be_read):
        template(made, "{% if x %}\n{% endfor %}")


def test_a_template_that_fails_later_says_on_what(made: Any) -> None:
    picky = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}x"
    found = template(made, picky)
    assert not found.has_system
    with pytest.raises(UsageError, match="fails on a chat of user, assistant: one"):
        found.render([*ASK, {"role": "assistant", "content": "So."}])
    assert found.after_answer() == ""


# The clock


def test_the_clock_shows_the_day_that_is_set(made: Any) -> None:
    found = template(made, DATED, date=date(2024, 7, 6))
    assert found.date == date(2024, 7, 6)
    assert found.render(ASK) == "Today: 06 Jul 2024 Saturday, 6/07\n<user>Why?"
    given = template(made, DATED, date=date(2024, 7, 6), template_options={"date_string": "now"})
    assert given.render(ASK) == "Today: now Saturday, 6/07\n<user>Why?"


def test_the_clock_shows_today_and_stays(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(date):
        now = date(2025, 1, 31)

        @classmethod
        def today(cls) -> Any:
            return cls.now

    monkeypatch.setattr(chat_template, "Date", Clock)
    found = template(made, DATED)
    assert found.date == date(2025, 1, 31)
    before = found.render(ASK)
    Clock.now = date(2025, 2, 1)
    assert found.render(ASK) == before
    assert "31 Jan 2025" in before


def test_a_template_without_a_clock_has_no_date(made: Any) -> None:
    assert template(made, PLAIN, date=date(2024, 7, 6)).date is None


@pytest.mark.parametrize("start", ["\n", "  {% if true %}a{% endif %}\n", " a"])
def test_the_clock_leaves_the_template_as_it_is(made: Any, start: str) -> None:
    without = template(made, start + PLAIN).render(ASK)
    read = template(made, start + "{% if false %}{{ strftime_now('%d') }}{% endif %}" + PLAIN)
    assert read.date is not None
    assert read.render(ASK) == without


@given(
    st.dates(min_value=date(1900, 1, 1)), st.lists(st.sampled_from("dmYybBaAHMSIpj"), max_size=4)
)
def test_the_clock_formats_as_strftime_does(day: date, letters: list[str]) -> None:
    form = ", ".join(f"%{letter}" for letter in letters)
    text = form
    for directive, shown in chat_template._clock(day):
        text = text.replace(directive, shown)
    assert text == day.strftime(form)


# The end of a turn


@pytest.mark.parametrize(
    ("end", "after"),
    [
        ("{{ m.content }}<|im_end|>\n", "<|im_end|>"),
        ("{{ m.content | trim }} </s>", " </s>"),
        ("{{ m.content.split('</think>')[-1] }}<|im_end|>", "<|im_end|>"),
    ],
)
def test_what_stands_behind_an_answer(made: Any, end: str, after: str) -> None:
    source = "{% for m in messages %}<{{ m.role }}>" + end + "{% endfor %}"
    assert template(made, source).after_answer().startswith(after)


def test_templates_that_take_no_answer_tell_nothing(made: Any) -> None:
    assert template(made, None).after_answer() == ""
    assert template(made, "{{ messages[0].content }}<|im_end|>").after_answer() == ""
