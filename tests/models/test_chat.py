"""Prompts come out of a chat template as they went in, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.prompt import Template
from flowtune_cli.models.chat import ChatSplitter, load_tokenizer
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.registry import load_registry

DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<system>Be good.</end>{% endif %}"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}</end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('never one') }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[/]{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model: LoadedModel) -> Any:
    return tiny_model.tokenizer


def shown(tokenizer: Any, system: str, user: str, prefill: str, chat: bool = True) -> str:
    template = Template(user="{user}", system="{system}" if system else "", prefill=prefill)
    prompt = template.render({"system": system, "user": user}, node="n")
    return Tokens(tokenizer, 10_000).render(prompt)


@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("prefill", ["", "I think"])
def test_what_went_in_comes_out(tokenizer: Any, system: str, prefill: str) -> None:
    text = shown(tokenizer, system, "Why\n\nso?", prefill)
    messages = [("system", system)] * bool(system) + [("user", "Why\n\nso?")]
    expected = [{"role": role, "content": content} for role, content in messages]
    assert ChatSplitter(tokenizer).split(text) == (expected, prefill)


PARTS = st.lists(
    st.sampled_from(
        [
            "<|im_start|>",
            "<|im_end|>\n",
            "user\n",
            "system\n",
            "assistant\n",
            "a",
            " ",
            "\n",
            "</end>",
        ]
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("template", [None, DEFAULT_SYSTEM, WITHOUT_SYSTEM])
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(system=PARTS, user=PARTS)
def test_what_comes_out_goes_in_again_to_the_letter(
    tokenizer: Any, template: str | None, system: str, user: str
) -> None:
    if template:
        tokenizer.chat_template = template
    text = shown(tokenizer, system, user, "")
    found = ChatSplitter(tokenizer).split(text)
    assert found is not None
    messages, prefill = found
    again = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert again + prefill == text


def test_a_template_without_a_system_part_has_it_in_the_users(tokenizer: Any) -> None:
    tokenizer.chat_template = WITHOUT_SYSTEM
    text = shown(tokenizer, "Be brief.", "Why?", "")
    messages = [{"role": "user", "content": "Be brief.\n\nWhy?"}]
    assert ChatSplitter(tokenizer).split(text) == (messages, "")


@pytest.mark.parametrize("text", ["", "Why?", "<|im_start|>user\nWhy?", "x<|im_start|>user\nWhy?"])
def test_other_texts_are_no_chats(tokenizer: Any, text: str) -> None:
    assert ChatSplitter(tokenizer).split(text) is None


def test_what_the_template_would_not_have_written_is_no_chat(tokenizer: Any) -> None:
    tokenizer.chat_template = DEFAULT_SYSTEM  # which takes white space off
    splitter = ChatSplitter(tokenizer)
    text = "<system>Be good.</end><user>{}</end><assistant>"
    assert splitter.split(text.format("Why?")) is not None
    assert splitter.split(text.format(" Why?")) is None


def test_without_a_template_nothing_is_a_chat(tokenizer: Any) -> None:
    text = shown(tokenizer, "", "Why?", "")
    tokenizer.chat_template = None
    assert ChatSplitter(tokenizer).split(text) is None


def test_the_tokenizer_alone(tiny_settings: ModelSettings, tmp_path: Any) -> None:
    assert load_tokenizer(tiny_settings, load_registry()).chat_template
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"the tokenizer of .*empty"):
        load_tokenizer(ModelSettings(name=str(tmp_path / "empty")), load_registry())
