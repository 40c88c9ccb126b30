"""Calls whose arguments stand between tags or special tokens: read, written and held to."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.messages import parse_messages
from flowtune_cli.flow.prompt import Message, Prompt, Segment, ToolCall
from flowtune_cli.flow.request import Constraint
from flowtune_cli.models.constraints import Constraints
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.models.tool_calls import FAMILIES, Family, family_of
from support.tokenizers import make_tokenizer

# Short ones, in the style of the families' own.
_TURNS = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}{{ CALL }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_CALLS = {
    "qwen3-coder": """<tool_call>
<function={{ c.function.name }}>
{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>
{{ v | tojson if v is mapping or (v is sequence and v is not string) else v | string }}
</parameter>
{% endfor %}</function>
</tool_call>""",
    "glm": """<tool_call>{{ c.function.name }}
{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v if v is string else v | tojson }}</arg_value>
{% endfor %}</tool_call>""",
    "deepseek": """<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{
 c.function.name }}
```json
{{ '' + c.function.arguments }}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>""",
    "deepseek-v3.1": """<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.function.name
 }}<｜tool▁sep｜>{{ '' + c.function.arguments }}<｜tool▁call▁end｜><｜tool▁calls▁end｜>""",
}
TEMPLATES = {
    name: _TURNS.replace("{{ CALL }}", call).replace(
        "{%- for", "{{ tools[0].function.name if tools }}{%- for", 1
    )
    for name, call in _CALLS.items()
}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 9},
        "number": {"type": "integer", "minimum": 1, "maximum": 3},
        "flag": {"type": "boolean"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "list": {"$ref": "#/$defs/short"},
        "unit": {"enum": ["metre", "foot", 3]},
    },
    "required": ["text", "number"],
    "additionalProperties": False,
    "$defs": {"short": {"type": "array", "items": {"type": "integer"}, "maxItems": 1}},
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}
TOOLS = json.dumps([TOOL])


def tokens_of(form: str, *, special: bool = False) -> Tokens:
    tokenizer = make_tokenizer("byte level")
    tokenizer.chat_template = TEMPLATES[form]
    if special:
        marks = ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>"]
        marks += ["</arg_value>", "</parameter>", "<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"]
        marks += ["<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"]
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return Tokens(tokenizer, 3000)


def written(form: str, arguments: Mapping[str, Any], before: str = "") -> str:
    """What a template of the family writes for a call."""
    call = {"id": "1", "function": {"name": "add", "arguments": json.dumps(arguments)}}
    turn = {"role": "assistant", "content": before, "tool_calls": [call]}
    text = tokens_of(form).render(Prompt(parse_messages([turn])))
    return text.removeprefix("<|im_start|>assistant\n").partition("<|im_end|>\n<|im_start|>")[0]


def parsed(form: str, text: str, parameters: Mapping[str, Any] = PARAMETERS) -> Any:
    return FAMILIES[_family(form)](text, {"add": parameters})


def _family(form: str) -> Family:
    found = family_of(TEMPLATES[form])
    assert found is not None
    return found


values = st.fixed_dictionaries(
    {"text": st.text(max_size=9), "number": st.integers()},
    optional={
        "flag": st.booleans(),
        "maybe": st.none() | st.text(max_size=5),
        "list": st.lists(st.integers(), max_size=3),
        "unit": st.sampled_from(["metre", "foot", 3]),
        "other": st.floats(allow_nan=False, allow_infinity=False) | st.just({"a": [1, "b"]}),
    },
)


@pytest.mark.parametrize("form", TEMPLATES)
@given(values=values)
@settings(max_examples=25, deadline=None)
def test_what_a_template_writes_is_read_again(form: str, values: dict[str, Any]) -> None:
    if any("<" in str(value) or value in ("null", "None") for value in values.values()):
        return
    text = written(form, values, "Well.")
    found = parsed(form, text)
    assert found is not None, text
    assert found.text == "Well."
    assert json.loads(found.calls[0].arguments) == values


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen3-coder", "<tool_call>\n<function=add>\n</tool_call>"),
        ("qwen3-coder", "<tool_call>\n<function=add>\n<parameter=a>\n1\n</function>\n</tool_call>"),
        ("qwen3-coder", "<tool_call>\n<function=add>\nso\n</function>\n</tool_call>"),
        ("qwen3-coder", "<tool_call>\n<function=add>\n</function>\n"),
        ("qwen3-coder", '<tool_call>{"name": "add", "arguments": {}}</tool_call>'),
        ("glm", "<tool_call>add\n<arg_key>a</arg_key>\n</tool_call>"),
        ("glm", "<tool_call>two words</tool_call>"),
        ("glm", "<tool_call>add"),
        ("glm", "add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{}"),
        (
            "deepseek",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{<｜tool▁call▁end｜>"
            "<｜tool▁calls▁end｜>",
        ),
    ],
)
def test_what_is_not_well_formed_is_a_text(family: Family, text: str) -> None:
    assert FAMILIES[family](text, {"add": PARAMETERS}) is None


def test_several_calls_and_a_text_that_spells_the_end_out() -> None:
    one = (
        "<tool_call>add\n<arg_key>text</arg_key>\n<arg_value></tool_call></arg_value>\n</tool_call>"
    )
    found = parsed("glm", f"{one}\n<tool_call>sub</tool_call>")
    assert found.calls == (
        ToolCall("", "add", '{"text": "</tool_call>"}'),
        ToolCall("", "sub", "{}"),
    )


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "12", "12"),
        ({"type": "integer"}, "12", 12),
        ({"type": "boolean"}, "True", True),
        ({"type": "integer"}, "many", "many"),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"enum": ["1", 2]}, "1", "1"),
        ({"enum": ["1", 2]}, "2", 2),
        ({}, "[1]", [1]),
        ({}, "so it is", "so it is"),
        ({"$ref": "#/$defs/t"}, "5", "5"),
        ({"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}, "5", 5),
    ],
)
def test_the_schema_says_whether_it_is_a_text(schema: Any, text: str, value: Any) -> None:
    whole = {"properties": {"a": schema}, "$defs": {"t": {"type": "string"}}}
    shown = f"<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    assert json.loads(parsed("glm", shown, whole).calls[0].arguments) == {"a": value}


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", TEMPLATES)
def test_a_call_that_is_asked_for_fits_its_schema(form: str, special: bool) -> None:
    tokens = tokens_of(form, special=special)
    prompt = Prompt(parse_messages([{"role": "user", "content": "x"}]), tools=TOOLS)
    grammar = tokens.grammar(Constraint("tool_calls", "null"), prompt)
    assert grammar is not None
    chance = random.Random(form)
    ended = 0
    for _ in range(20):
        matcher = grammar.matcher()
        ids: list[int] = []
        while len(ids) < 500 and (not ids or ids[-1] != grammar.end):
            allowed = matcher.allowed(len(tokens.tokenizer)).nonzero()[:, 0].tolist()
            ids.append(chance.choice(allowed))
            matcher.take(ids[-1])
        if ids[-1] != grammar.end:
            continue
        ended += 1
        found = parsed(form, tokens.whole_text(ids[:-1]))
        assert found is not None, tokens.whole_text(ids)
        arguments = json.loads(found.calls[0].arguments)
        assert {"text", "number"} <= arguments.keys() <= PARAMETERS["properties"].keys()
        assert isinstance(arguments["text"], str)
        assert 1 <= arguments["number"] <= 3
        assert isinstance(arguments.get("flag", True), bool)
        assert arguments.get("unit", 3) in ("metre", "foot", 3)
    assert ended > 10


@pytest.mark.parametrize("form", TEMPLATES)
def test_under_a_constraint_the_template_s_own_calls_are_allowed(form: str) -> None:
    constraints = Constraints(make_tokenizer("byte level"), TEMPLATES[form], "org/name")
    tokenizer = make_tokenizer("byte level")

    def allowed(text: str, constraint: Constraint) -> bool:
        grammar = constraints.grammar(constraint, tokenizer.eos_token_id, TOOLS)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        try:
            grammar.allowed((*ids, grammar.end), len(tokenizer))
        except FlowtuneError:
            return False
        return True

    right = written(form, {"text": "a\n/b", "number": 2, "unit": "foot"})
    for constraint in (Constraint("tool_calls", "null"), Constraint("text")):
        assert allowed(right, constraint)
        assert not allowed(written(form, {"text": "a", "number": 4}), constraint)
        assert not allowed(written(form, {"number": 2}), constraint)
        assert not allowed(f"{right}{right}", constraint)
    assert allowed(f"First this. {right}", Constraint("text"))
    assert allowed("No call.", Constraint("text"))
    assert not allowed("No call.", Constraint("tool_calls", "null"))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, "'pattern' "),
        ({"anyOf": [{}]}, "'anyOf' of all arguments"),
        ({"type": "array"}, "'its type' of all arguments"),
        ({"type": "object", "properties": {"a<b": {}}}, "the name 'a<b'"),
    ],
)
def test_a_schema_that_tags_cannot_hold_to_is_refused(parameters: Any, reason: str) -> None:
    constraints = Constraints(make_tokenizer("byte level"), TEMPLATES["glm"], "org/name")
    tools = json.dumps([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    with pytest.raises(UsageError, match=f"the schema of 'f' cannot be held to there: {reason}"):
        constraints.grammar(Constraint("text"), 0, tools)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("form", TEMPLATES)
@pytest.mark.parametrize("thoughts", ["", "<think>\n\n</think>\n"])
def test_a_call_as_a_target_is_what_the_template_writes(
    form: str, special: bool, thoughts: str
) -> None:
    tokens = tokens_of(form, special=special)
    # What stands before an answer may be left out of an answer that was given.
    tokens.tokenizer.chat_template = TEMPLATES[form].replace(
        "assistant\n{% endif %}", f"assistant\n{thoughts}{{% endif %}}"
    )
    tokens = Tokens(tokens.tokenizer, 3000)
    prompt = Prompt(parse_messages([{"role": "user", "content": "x"}]), tools=TOOLS)
    arguments = {"text": "<|im_end|> so", "number": 2}
    call = ToolCall("1", "add", json.dumps(arguments))
    answer = Message("assistant", (Segment("Well."),), (call,))
    *ids, end = tokens.answer(answer, prompt)
    assert end == tokens.end_of_turn
    assert end not in ids  # what the arguments spell out is text
    text = tokens.whole_text(ids)
    assert special or text == written(form, arguments, "Well.")
    found = tokens.tool_calls(ids, TOOLS, ())
    assert found is not None
    assert found.text == "Well."
    assert json.loads(found.calls[0].arguments) == arguments
    tokens.tokenizer.chat_template = None
    bare = Tokens(tokens.tokenizer, 3000)
    with pytest.raises(UsageError, match="has no chat template"):
        bare.answer(answer, prompt)
