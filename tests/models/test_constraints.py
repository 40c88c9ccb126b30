"""What constraints allow, on tokenizers of every kind, and what is said of those that cannot be."""

from __future__ import annotations

import json
import random
import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.messages import parse_messages
from flowtune_cli.flow.prompt import Prompt
from flowtune_cli.flow.request import Constraint
from flowtune_cli.models.chat_template import TextOptions
from flowtune_cli.models.constraints import Constraints, Grammar
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.models.tool_calls import FAMILIES, family_of
from support.tokenizers import KINDS, make_tokenizer

PROMPT = Prompt(parse_messages([{"role": "user", "content": "Why?"}]))
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "no", "parameters": {"enum": [{}]}}}
TOOLS = json.dumps([TOOL, NOTHING])
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x y", "é"]}, "b": {"type": "array", "maxItems": 2}},
    "required": ["a"],
    "additionalProperties": False,
}


USABLE = [kind for kind in KINDS if kind not in ("unigram", "byte level with a space")]


def draw(grammar: Grammar, vocabulary: int, chance: random.Random, most: int = 300) -> list[int]:
    """Tokens of which each is drawn from those that are allowed."""
    matcher = grammar.matcher()
    tokens: list[int] = []
    while len(tokens) < most and (not tokens or tokens[-1] != grammar.end):
        tokens.append(chance.choice(matcher.allowed(vocabulary).nonzero()[:, 0].tolist()))
        matcher.take(tokens[-1])
    return tokens


@pytest.mark.parametrize("kind", USABLE)
@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", r"[a-c]{1,4}( one| two){0,3}[0-9é]"),
        Constraint("choice", json.dumps(["Yes", "No", 'Yes, é "so"\\n'])),
        Constraint("json_schema", json.dumps(SCHEMA)),
    ],
)
def test_whatever_is_allowed_fits(kind: str, constraint: Constraint) -> None:
    tokenizer = make_tokenizer(kind)
    tokens = Tokens(tokenizer, 500)
    grammar = tokens.grammar(constraint, PROMPT)
    assert grammar is not None
    assert grammar.end == tokens.end_of_turn
    chance = random.Random(kind)
    ended = 0
    for _ in range(15):
        ids = draw(grammar, len(tokenizer), chance)
        if ids[-1] != grammar.end:
            continue
        ended += 1
        text = tokens.decode(ids[:-1])
        if constraint.kind == "regex":
            assert re.fullmatch(constraint.value, text)
        elif constraint.kind == "choice":
            assert text in json.loads(constraint.value)
        else:
            value = json.loads(text)
            assert value["a"] in ("x y", "é")
            assert len(value.get("b", [])) <= 2
            assert set(value) <= {"a", "b"}
    assert ended > 3


def test_json_may_be_laid_out_but_not_go_on_with_white_space(byte_level: Any) -> None:
    tokens = Tokens(byte_level, 500)
    schema = Constraint("json_schema", json.dumps(SCHEMA))

    def allowed(text: str, constraint: Constraint, tools: str = "") -> bool:
        made = Constraints(byte_level, "<tool_call>", "org/name")
        grammar = made.grammar(constraint, byte_level.eos_token_id, tools)
        try:
            grammar.allowed((*tokens.completion(text), grammar.end), len(byte_level))
        except FlowtuneError:
            return False
        return True

    value = {"a": "x y", "b": [1, {"c": None}]}
    for indent in (None, 2, 4):
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        assert allowed(text, schema)
        assert allowed(text, Constraint("json_object"))
    assert allowed('{"a":"x y"}', schema)
    assert not allowed('{"a":  "x y"}', schema)
    assert not allowed('{\n\n"a": "x y"}', schema)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    for text, fine in ((call, True), (call.replace("1", "  1"), False)):
        assert allowed(text, Constraint("tool_calls", '"add"'), TOOLS) is fine
    for text, fine in [
        (call, True),
        (call.replace(": 1}", ': "x"}'), False),
        ("no call at all", True),
        ("1 < 2, <<tool_call and }", True),
        (f"First this. {call}", True),
        (f"First this, <tool_call. {call}", True),
        (f"First this. {call} Then that.", False),
        (f"First this. {call.replace(': 1}', ': 3}')}", False),
        (f"{call}{call}", False),
        ("<tool_call>", False),
    ]:
        assert allowed(text, Constraint("text"), TOOLS) is fine, text
    assert allowed("<tool_call>", Constraint("text"))


def test_where_calls_begin_like_text_a_text_does_not_begin_so(byte_level: Any) -> None:
    constraints = Constraints(byte_level, "<|python_tag|>", "org/name")
    grammar = constraints.grammar(Constraint("text"), byte_level.eos_token_id, TOOLS)
    call = '{"name": "add", "parameters": {"a": 1}}'
    for text, fine in [
        (call, True),
        (call.replace("1", "3"), False),
        ("It is so, {and} so.", True),
        ("[1]", True),
        ("", True),
        (" \n{", False),
        ("{so it is}", False),
        (f"First this. {call}", True),  # which is a text
        (f"<|python_tag|>{call}", False),
    ]:
        ids = (*byte_level(text, add_special_tokens=False)["input_ids"], grammar.end)
        try:
            grammar.allowed(ids, len(byte_level))
        except FlowtuneError:
            assert not fine, text
        else:
            assert fine, text
            found = FAMILIES["llama3"](text, {"add": {}, "no": {}})
            assert (found is not None) == (text == call)


@pytest.mark.parametrize("special", [True, False])
def test_a_call_may_stand_behind_a_text(special: bool) -> None:
    tokenizer = make_tokenizer("byte level")
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]"]})
    constraints = Constraints(tokenizer, "[TOOL_CALLS][ARGS]", "org/name")
    grammar = constraints.grammar(Constraint("text"), tokenizer.eos_token_id, TOOLS)
    for text, fine in [
        ('Well.[TOOL_CALLS]add[ARGS]{"a": 1}', True),
        ('Well.[TOOL_CALLS]add[ARGS]{"a": 3}', False),
        ('Well.[TOOL_CALLS]add[ARGS]{"a": 1} So.', False),
        ("Well. [TOOL", True),
    ]:
        ids = (*tokenizer(text, add_special_tokens=False)["input_ids"], grammar.end)
        if fine:
            assert grammar.allowed(ids, len(tokenizer)).any(1).all()
        else:
            with pytest.raises(FlowtuneError, match="could not be kept"):
                grammar.allowed(ids, len(tokenizer))


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return make_tokenizer("byte level")


def test_masks_are_those_of_each_place(byte_level: Any) -> None:
    tokens = Tokens(byte_level, 500)
    grammar = tokens.grammar(Constraint("regex", "[0-9]{2}"), PROMPT)
    assert grammar is not None
    ids = (*tokens.completion("1"), *tokens.completion("2"), grammar.end)
    masks = grammar.allowed(ids, len(byte_level) + 7)
    assert masks.shape == (3, len(byte_level) + 7)
    # More logits than tokens: what has no text is not allowed.
    assert not masks[:, len(byte_level) :].any()
    digits = {tokens.completion(str(n)) for n in range(10)}
    assert {(i,) for i in masks[1].nonzero()[:, 0].tolist()} == digits
    assert masks[2].nonzero().tolist() == [[grammar.end]]
    with pytest.raises(FlowtuneError, match=r"the constraint regex \[0-9\]\{2\} could not be kept"):
        grammar.allowed(tokens.completion("x"), len(byte_level))


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("<tool_call>", "hermes"),
        ("<|python_tag|>", "llama3"),
        ("[TOOL_CALLS]", "mistral"),
        ("[TOOL_CALLS][ARGS]", "mistral"),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_a_call_that_is_asked_for_is_parsed(template: str, family: Any, special: bool) -> None:
    tokenizer = make_tokenizer("byte level")
    if special:
        marks = ["[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>"]
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    assert family_of(template) == family
    constraints = Constraints(tokenizer, template, "org/name")
    chance = random.Random(template)
    names = set()
    for value in ["null"] * 20 + ['"no"'] * 5:
        constraint = Constraint("tool_calls", value)
        grammar = constraints.grammar(constraint, tokenizer.eos_token_id, TOOLS)
        ids = draw(grammar, len(tokenizer), chance)
        if ids[-1] != grammar.end:
            continue
        parsed = FAMILIES[family](tokenizer.decode(ids[:-1]), {"add": {}, "no": {}})
        assert parsed is not None
        assert parsed.text == ""
        (call,) = parsed.calls
        assert json.loads(call.arguments) in ({"add": [{"a": 1}, {"a": 2}], "no": [{}]}[call.name])
        assert value == "null" or call.name == "no"
        names.add((value, call.name))
    assert names == {("null", "add"), ("null", "no"), ('"no"', "no")}


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint("regex", "[a-z]/[0-9]"), "a/1"),
        (Constraint("choice", '["Yes.", "No."]'), "No."),
        (Constraint("json_schema", json.dumps(SCHEMA)), '{"a": "é"}'),
        (Constraint("json_object"), '{"any": [{"thing": 1}]}'),
    ],
)
@pytest.mark.parametrize("template", ["<tool_call>", "[TOOL_CALLS][ARGS]", "<|python_tag|>"])
def test_where_there_are_tools_an_output_fits_or_calls_one(
    byte_level: Any, constraint: Constraint, text: str, template: str
) -> None:
    constraints = Constraints(byte_level, template, "org/name")
    end = byte_level.eos_token_id
    both, alone = (constraints.grammar(constraint, end, tools) for tools in (TOOLS, ""))
    ids = tuple(byte_level(text, add_special_tokens=False)["input_ids"])
    for grammar in (both, alone):
        assert grammar.allowed((*ids, end), len(byte_level)).any(1).all()
    called = constraints.grammar(Constraint("tool_calls", "null"), end, TOOLS)
    for n in range(8):
        call = draw(called, len(byte_level), random.Random(n))
        if byte_level.decode(call)[0].isspace():  # allowed before JSON that is all there is
            continue
        both.allowed(call, len(byte_level))
        if constraint.kind != "json_object" or template != "<|python_tag|>":
            with pytest.raises(FlowtuneError, match="could not be kept"):
                alone.allowed(call, len(byte_level))
    with pytest.raises(FlowtuneError, match="could not be kept"):
        both.allowed(ids[1:], len(byte_level))


@pytest.mark.parametrize(
    ("constraint", "error"),
    [
        (
            Constraint("regex", "(a"),
            r"the constraint regex \(a cannot be used: .*unclosed group",
        ),
        (
            Constraint("json_schema", '{"type": "nothing"}'),
            'the constraint json_schema {"type": "nothing"} cannot be used: .*nothing',
        ),
        (Constraint("json_schema", '{"not": {}}'), "cannot be used: Unimplemented keys"),
        (Constraint("json_schema", "3"), "the constraint json_schema 3 cannot be used"),
        (Constraint("tool_calls", "null"), "how 'org/name' writes tool calls is not known"),
    ],
)
def test_what_cannot_be_kept_is_an_error_of_one_line(
    byte_level: Any, constraint: Constraint, error: str
) -> None:
    byte_level.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokens = Tokens(byte_level, 500, options=TextOptions("org/name"))
    with pytest.raises(UsageError, match=error) as raised:
        tokens.grammar(constraint, PROMPT)
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(byte_level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    tokens = Tokens(byte_level, 500)
    with pytest.raises(UsageError, match=r"a constraint needs the package llguidance: pip install"):
        tokens.grammar(Constraint("json_object"), PROMPT)
    assert tokens.grammar(None, PROMPT) is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("unigram", "decoder type"), ("byte level with a space", "it adds a space before each text")],
)
def test_other_tokenizers_are_refused(kind: str, reason: str) -> None:
    tokens = Tokens(make_tokenizer(kind), 500)
    with pytest.raises(UsageError, match=f"cannot be used with constraints: .*{reason}.*; take"):
        tokens.grammar(Constraint("json_object"), PROMPT)


def test_a_slow_tokenizer_is_refused(byte_level: Any) -> None:
    class Slow:
        pass

    constraints = Constraints(Slow(), "", "org/name")
    with pytest.raises(UsageError, match="the tokenizer of 'org/name' cannot be used with constr"):
        constraints.grammar(Constraint("json_object"), 1, "")


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4), st.randoms())
def test_any_texts_may_be_a_choice(texts: list[str], chance: random.Random) -> None:
    tokenizer = _BYTES
    grammar = Constraints(tokenizer, "", "org/name").grammar(
        Constraint("choice", json.dumps(texts)), tokenizer.eos_token_id, ""
    )
    ids = draw(grammar, len(tokenizer), chance)
    assert tokenizer.decode(ids[:-1], clean_up_tokenization_spaces=False) in texts


_BYTES = make_tokenizer("byte level")
