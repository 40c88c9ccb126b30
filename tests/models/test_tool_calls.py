"""Tool calls are found in the form of the model's family, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.prompt import ToolCall
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tool_calls import (
    FAMILIES,
    Family,
    Parsed,
    ToolCallParser,
    family_of,
)

TOOLS = json.dumps([{"type": "function", "function": {"name": "add"}}])
SCHEMAS: Any = {"add": {}}
ADD = ToolCall("", "add", '{"a": 1}')
SUB = ToolCall("", "sub", "{}")


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("...<tool_call>\n{{ x }}\n</tool_call>", "hermes"),
        ("{{ '<|python_tag|>' }}", "llama3"),
        ('"Environment: ipython" ... {"name": function name, "parameters": ...}', "llama3"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
        ("<tool_call><function=x><parameter=y>", "qwen3-coder"),
        ("<tool_call>{name}<arg_key>", "glm"),
        ("{{ '<｜tool▁calls▁begin｜>' }}", "deepseek"),
        ("<|im_start|>", None),
        ("", None),
    ],
)
def test_the_template_tells_the_family(template: str, family: Family | None) -> None:
    assert family_of(template) == family


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [
        (
            "hermes",
            'Well.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
            Parsed("Well.", (ADD,)),
        ),
        (
            "hermes",
            '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n'
            '<tool_call>{"name": "sub", "arguments": {}}</tool_call>',
            Parsed("", (ADD, SUB)),
        ),
        (
            "hermes",
            '<tool_call>[{"name": "add", "arguments": {"a": 1}},'
            ' {"name": "sub", "arguments": "{}"}]</tool_call>',
            Parsed("", (ADD, SUB)),
        ),
        ("llama3", '{"name": "add", "parameters": {"a": 1}}', Parsed("", (ADD,))),
        (
            "llama3",
            '<|python_tag|>{"name": "add", "parameters": {"a": 1}}; {"name": "sub",'
            ' "parameters": {}}',
            Parsed("", (ADD, SUB)),
        ),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]',
            Parsed("", (ADD,)),
        ),
        (
            "mistral",
            'Yes.[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]sub{}',
            Parsed("Yes.", (ADD, SUB)),
        ),
    ],
)
def test_calls_of_each_family(family: Family, text: str, expected: Parsed) -> None:
    assert FAMILIES[family](text, SCHEMAS) == expected


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", '{"name": "add", "arguments": {}}'),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}}'),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call></tool_call>"),
        (
            "hermes",
            '<tool_call>{"name": "add", "arguments": {}}</tool_call><tool_call>no</tool_call>',
        ),
        ("hermes", "<tool_call>" + "[" * 99999 + "</tool_call>"),
        ("llama3", '{"name": "other", "parameters": {}}'),
        ("llama3", 'I say {"name": "add", "parameters": {}}'),
        ("llama3", '{"name": "add", "parameters": {}} or so'),
        ("llama3", "<|python_tag|>print(1)"),
        ("llama3", "[1]"),
        ("mistral", '[{"name": "add", "arguments": {}}]'),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS]add[ARGS]"),
        ("mistral", "[TOOL_CALLS][1, 2]"),
    ],
)
def test_what_is_not_well_formed_is_a_text(family: Family, text: str) -> None:
    assert FAMILIES[family](text, SCHEMAS) is None


arguments = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=9)))


@given(arguments, st.sampled_from(["hermes", "llama3", "mistral"]))
def test_arguments_come_through_as_they_are(values: dict[str, Any], family: Family) -> None:
    shown = json.dumps(values)
    text = {
        "hermes": f'<tool_call>\n{{"name": "add", "arguments": {shown}}}\n</tool_call>',
        "llama3": f'{{"name": "add", "parameters": {shown}}}',
        "mistral": f'[TOOL_CALLS][{{"name": "add", "arguments": {shown}}}]',
    }[family]
    if any(mark in shown for mark in ("tool_call", "TOOL_CALLS", "ARGS")):
        return
    parsed = FAMILIES[family](text, SCHEMAS)
    assert parsed is not None
    assert json.loads(parsed.calls[0].arguments) == values


@given(st.text(alphabet='<tool_call>/{"name: ,}[]TOOL_CALLS;\n', max_size=60))
def test_nothing_fails(text: str) -> None:
    for parse in FAMILIES.values():
        parse(text, SCHEMAS)
        parse(f"<tool_call>{text}</tool_call>[TOOL_CALLS]{text}", SCHEMAS)


def test_a_tokenizers_own_response_template_goes_first(tiny_model: LoadedModel) -> None:
    tiny_model.tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "content": {},
            "tool_calls": {
                "open": "<call>",
                "close": "</call>",
                "content": "json",
                "repeats": True,
                "transform": {"type": "function", "function": "{content}"},
            },
        },
    }

    def prompt() -> str:
        return "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"

    parser = ToolCallParser(tiny_model.tokenizer, "<tool_call>")
    found = parser.parse('So <call>{"name": "add", "arguments": {"a": 1}}</call>', TOOLS, prompt)
    assert found == Parsed("So", (ADD,))
    assert parser.parse('<call>{"name": "add"</call>', TOOLS, prompt) is None
    hermes = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert parser.parse(hermes, TOOLS, prompt) is None
