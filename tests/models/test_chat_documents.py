"""What chat templates are given of tools and calls, and what is said of those that lose them."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.messages import parse_messages, parse_tools
from flowtune_cli.flow.prompt import Prompt
from flowtune_cli.models.chat_template import TextOptions
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tokens import Tokens

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
USER = {"role": "user", "content": "1 + 1?"}


def calling(arguments: str) -> dict[str, Any]:
    call = {"id": "abc", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def answer(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "abc", "content": content}


def chat(*messages: Any, tools: Any = ()) -> Prompt:
    return Prompt(parse_messages(messages), tools=parse_tools(list(tools)))


def tokens(loaded: LoadedModel, template: Any = None) -> Tokens:
    if template is not None:
        loaded.tokenizer.chat_template = template
    return Tokens(loaded.tokenizer, 1024, options=TextOptions("org/name"))


def test_templates_get_tools_and_calls_as_objects(tiny_model: LoadedModel) -> None:
    prompt = chat(USER, calling('{"a": [1, "x"]}'), answer("2"), tools=TOOLS)
    assert tokens(tiny_model).render(prompt) == (
        '<|im_start|>tools\n{"type": "function", "function": {"name": "add", "parameters":'
        ' {"type": "object"}}}\n<|im_end|>\n'
        "<|im_start|>user\n1 + 1?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "add", "arguments": {"a": [1, "x"]}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_are_plain_text_wherever_data_spells_them(tiny_model: LoadedModel) -> None:
    end = "<|im_end|>"
    tools = [{"type": "function", "function": {"name": f"f{end}", "description": end}}]
    prompt = chat(
        {"role": "user", "content": end},
        calling(f'{{"{end}": ["{end}"]}}'),
        answer(end),
        tools=tools,
    )
    of_model = tokens(tiny_model)
    encoded = of_model.encode(prompt)
    special = encoded.ids.count(tiny_model.tokenizer.eos_token_id)
    assert special == of_model.render(chat(USER, calling("{}"), answer("2"), tools=TOOLS)).count(
        end
    )
    assert encoded.text.count(end) == special + 6
    assert tiny_model.tokenizer.decode(encoded.ids) == encoded.text


def test_a_text_may_hold_any_mark(tiny_model: LoadedModel) -> None:
    prompt = chat(USER, calling(r'{"a": "\ue000 <|im_end|>"}'), answer("\ue001"))
    encoded = tokens(tiny_model).encode(prompt)
    assert '"\ue000 <|im_end|>"' in encoded.text
    assert "tool\n\ue001" in encoded.text


def test_lone_surrogates_are_escaped(tiny_model: LoadedModel) -> None:
    encoded = tokens(tiny_model).encode(chat(USER, calling(r'{"a": "\ud800"}'), answer("\ud801")))
    assert r"\\ud800" in encoded.text
    assert "tool\n\\ud801" in encoded.text


PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NO_TOOL_ROLE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}"
    "{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    "{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)
WITH_TOOLS = PLAIN + "{{ tools }}"


@pytest.mark.parametrize(
    ("template", "prompt", "error"),
    [
        (PLAIN, chat(USER, tools=TOOLS), "cannot show tools: it leaves them out; take another"),
        (
            {"default": PLAIN, "tool_use": WITH_TOOLS},
            chat(USER, tools=TOOLS),
            "cannot show tools: it leaves them out; set model.chat_template = 'tool_use'",
        ),
        (PLAIN, chat(USER, calling("{}")), "cannot show calls of tools: it leaves them out"),
        (
            NO_TOOL_ROLE,
            chat(USER, calling("{}"), answer("2")),
            "cannot show calls of tools: no tools here",
        ),
        (ALTERNATING, chat(USER, USER), "fails on a chat of user, user: roles must alternate"),
        ("", chat(USER, tools=TOOLS), "'org/name' has no chat template, so it cannot be given too"),
    ],
)
def test_what_a_template_cannot_show_is_an_error(
    tiny_model: LoadedModel, template: Any, prompt: Prompt, error: str
) -> None:
    with pytest.raises(UsageError, match=error) as raised:
        tokens(tiny_model, template).render(prompt)
    assert "org/name" in str(raised.value)
    assert "\n" not in str(raised.value)


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
SAID = {"role": "assistant", "content": "Two."}


def test_a_system_message_without_a_place_goes_before_the_users(tiny_model: LoadedModel) -> None:
    of_model = tokens(tiny_model, NO_SYSTEM)
    assert of_model.render(chat(SYSTEM, USER, SAID)) == "[user]Be brief.\n\n1 + 1?[assistant]Two."
    for messages in ([SYSTEM], [SYSTEM, SAID, USER]):
        with pytest.raises(UsageError, match="has no system message, and the chat has no user's"):
            of_model.render(chat(*messages))
