"""Chat: what a call gives, what the flow gets, alternatives, and what is learned."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest

from flowtune_cli.exploration import DiverseBeam, MultiSample
from flowtune_cli.flow.chat import ChatAnswer
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.messages import ChatError
from flowtune_cli.flow.node import Score, Term, TextDatum
from flowtune_cli.flow.prompt import Message, Prompt, Segment, ToolCall
from flowtune_cli.flow.request import GREEDY, Constraint, DecodeRequest, Decoding
from flowtune_cli.nodes import Chat
from support.fake_engine import FakeEngine, FlowTask, run_deviate, run_play

ASK = [{"role": "user", "content": "Why?"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("add", "none")
]
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def writes(*texts: str) -> FakeEngine:
    return FakeEngine(lambda prompt, output: texts[output])


def node(**more: Any) -> Chat:
    return Chat(name="c", reward="reward", **more)


def asked(engine: FakeEngine) -> DecodeRequest:
    (request,) = engine.requests
    assert isinstance(request, DecodeRequest)
    return request


def test_a_greedy_answer(respond: Any) -> None:
    engine = writes("two words")
    response = respond(engine, node(max_new_tokens=9, stop=("\n",)), messages=ASK)
    prompt = Prompt((Message("user", (Segment("Why?"),)),), reserve=9)
    expected = DecodeRequest("c", prompt, 9, ("\n",), GREEDY, (1, "id", 2), refusable=True)
    assert asked(engine) == expected
    (output,) = response.outputs
    assert output.value == ChatAnswer("two words", (), "stop", 11, 2, None)
    assert (output.text, output.tokens, output.truncated) == ("two words", 2, False)
    tokens = tuple(crc32(word.encode()) for word in ("two", "words"))
    assert output.score == Score((Term(prompt, tokens),))


def test_a_call_replaces_the_settings(respond: Any) -> None:
    engine = writes("one two three", "b", "c")
    response = respond(
        engine,
        node(alternatives=2),
        DiverseBeam(),
        messages=ASK,
        temperature=0.7,
        top_p=0.9,
        max_tokens=2,
        stop=".",
        seed=4,
        logprobs=True,
        constraint={"kind": "regex", "value": ".*"},
        tools=None,
    )
    request = asked(engine)
    how = Decoding(samples=2, temperature=0.7, top_p=0.9, greedy=False)
    assert (request.max_new_tokens, request.prompt.reserve, request.stop) == (2, 2, (".",))
    assert (request.decoding, request.seed) == (how, (1, "id", 2, 4))
    constraint = Constraint("regex", ".*")
    assert request.constraint == constraint
    answer = response.outputs[0].value
    assert (answer.text, answer.finish_reason) == ("one two", "length")
    assert answer.token_logprobs == (("one", 0.0), ("two", 0.0))
    assert {term.constraint for o in response.outputs for term in o.score.terms} == {constraint}


def test_what_is_left_out_is_the_nodes_own(respond: Any) -> None:
    engine = writes("a")
    respond(engine, node(temperature=1.5, top_p=0.5), messages=ASK, temperature=None)
    assert asked(engine).decoding == Decoding(temperature=1.5, top_p=0.5, greedy=False)
    engine = writes("a", "b")
    respond(engine, node(temperature=1.5), MultiSample(), messages=ASK, temperature=0)
    assert asked(engine).decoding == Decoding(samples=1)


def test_tool_calls(respond: Any) -> None:
    engine = writes(f"Well. {CALL}")
    response = respond(engine, node(), messages=ASK, tools=TOOLS)
    answer = response.outputs[0].value
    (call,) = answer.tool_calls
    assert (answer.text, answer.finish_reason) == ("Well.", "tool_calls")
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
    assert response.outputs[0].text == f"Well. {CALL}"
    assert len(call.id) == 9
    assert call.id.isalnum()
    # By the call's place alone: the same when it is replayed.
    again = respond(writes(f"Other. {CALL}"), node(), messages=ASK, tools=TOOLS)
    assert again.outputs[0].value.tool_calls == (call,)
    # A program sends back what it got.
    back = {
        "role": "assistant",
        "content": answer.text,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
        ],
    }
    engine = writes("2")
    result = {"role": "tool", "tool_call_id": call.id, "content": "2"}
    respond(engine, node(), messages=[*ASK, back, result], tools=TOOLS)
    assert asked(engine).prompt.messages[1].tool_calls == (call,)


def test_without_tools_nothing_is_a_call(respond: Any) -> None:
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        engine = writes(CALL)
        answer = respond(engine, node(), messages=ASK, **more).outputs[0].value
        assert (answer.text, answer.tool_calls, answer.finish_reason) == (CALL, (), "stop")
        assert asked(engine).prompt.tools == ""


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("required", "null"),
        ({"type": "function", "function": {"name": "add"}}, '"add"'),
        ({"type": "function", "function": {"name": "none"}}, '"none"'),
    ],
)
def test_a_tool_may_have_to_be_called(respond: Any, choice: Any, value: str) -> None:
    engine = writes(CALL)
    respond(engine, node(), messages=ASK, tools=TOOLS, tool_choice=choice)
    assert asked(engine).constraint == Constraint("tool_calls", value)
    assert asked(engine).prompt.tools == json.dumps(TOOLS)


def test_a_tool_that_has_to_be_called_leaves_no_text_to_constrain(respond: Any) -> None:
    more = {"tools": TOOLS, "constraint": {"kind": "json_object"}}
    for choice, kind in (("required", "tool_calls"), ("auto", "json_object")):
        engine = writes(CALL)
        respond(engine, node(), messages=ASK, tool_choice=choice, **more)
        constraint = asked(engine).constraint
        assert constraint is not None
        assert constraint.kind == kind
        assert asked(engine).prompt.tools


def test_outputs_that_parse_alike_count_once(respond: Any) -> None:
    engine = writes('{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 1}', ' {"a":1}')
    free = respond(engine, node(alternatives=3), DiverseBeam(), messages=ASK)
    assert len(free.outputs) == 4
    json_object = {"kind": "json_object"}
    bound = respond(
        engine, node(alternatives=3), DiverseBeam(), messages=ASK, constraint=json_object
    )
    assert [o.text for o in bound.outputs] == ['{"a": 1, "b": 2}', '{"a": 1}']
    engine = writes(CALL, CALL.replace(": ", ":"), CALL.replace("1", "2"))
    called = respond(engine, node(alternatives=3), DiverseBeam(beams=3), messages=ASK, tools=TOOLS)
    assert [o.value.tool_calls[0].arguments for o in called.outputs] == ['{"a": 1}', '{"a": 2}']


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({}, "messages must be a list of one message or more; got None"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no content"),
        ({"mesages": ASK}, "unknown input of a chat 'mesages'. Did you mean 'messages'"),
        ({"messages": ASK, "temperature": -1}, "temperature must be 0 or more; got -1"),
        ({"messages": ASK, "temperature": "hot"}, "temperature is 'hot'; it must be a number"),
        ({"messages": ASK, "temperature": True}, "temperature must be a number; got True"),
        ({"messages": ASK, "top_p": 0}, "top_p must be above 0 and at most 1; got 0"),
        ({"messages": ASK, "max_tokens": 0}, "max_tokens must be 1 or more; got 0"),
        ({"messages": ASK, "max_tokens": 1.5}, "max_tokens must be a whole number; got 1.5"),
        ({"messages": ASK, "seed": "x"}, "seed must be a whole number; got 'x'"),
        ({"messages": ASK, "stop": ["a", ""]}, "stop must be a text or a list of texts"),
        ({"messages": ASK, "logprobs": 2}, "logprobs must be true or false; got 2"),
        ({"messages": ASK, "constraint": "json"}, "constraint must be an object whose kind is one"),
        ({"messages": ASK, "constraint": {"kind": "tool_calls"}}, "constraint must be an object"),
        ({"messages": ASK, "constraint": {"kind": "regex"}}, "regex constraint must be a text"),
        ({"messages": ASK, "constraint": {"kind": "choice", "value": []}}, "must be texts"),
        (
            {"messages": ASK, "constraint": {"kind": "json_schema", "value": "{"}},
            "the value of a json_schema constraint is no JSON",
        ),
        ({"messages": ASK, "tool_choice": "required"}, "'required', and the call has no tools"),
        ({"messages": ASK, "tool_choice": "any"}, "tool_choice must be 'auto', 'none', 'required'"),
        (
            {
                "messages": ASK,
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "ad"}},
            },
            "unknown tool in tool_choice 'ad'. Did you mean 'add'",
        ),
    ],
)
def test_wrong_inputs_are_named(inputs: Any, error: str) -> None:
    with pytest.raises(ChatError, match=error):
        node().prompt_text(inputs)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 or more"),
    ],
)
def test_wrong_settings_are_named(settings: Any, error: str) -> None:
    with pytest.raises(UsageError, match=f"node 'c': {error}"):
        node(**settings)


def test_the_request_is_what_the_answer_depends_on() -> None:
    plain = node().prompt_text({"messages": ASK})
    assert json.loads(plain) == {"messages": ASK}
    parts = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    for same in ({"logprobs": True}, {"messages": parts}, {"tools": None}):
        assert node().prompt_text({"messages": ASK, **same}) == plain
    others = [
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "required"},
        {"constraint": {"kind": "json_object"}},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"max_tokens": 3},
        {"stop": "."},
        {"seed": 1},
        {"messages": [{"role": "system", "content": "Why?"}]},
        {"messages": [{**ASK[0], "name": "Ann"}]},
    ]
    texts = [node().prompt_text({"messages": ASK, **other}) for other in others]
    assert len({plain, *texts}) == 1 + len(others)


def test_targets_are_texts(respond: Any) -> None:
    response = respond(writes("wrong"), node(weight=0.5), messages=ASK)
    prompt = response.outputs[0].score.terms[0].prompt
    expected = [TextDatum("c", prompt, "right", 0.5)]
    assert node(weight=0.5).target_data(response, " right\n") == expected
    for gold in (None, "", [{"tool_calls": []}]):
        with pytest.raises(UsageError, match="node 'c' learns from target texts"):
            node().target_data(response, gold)


async def conversation(episode: Any, example: Any) -> str:
    first = await episode.call("c", messages=ASK, temperature=1.0)
    said = {"role": "assistant", "content": first.text}
    second = await episode.call("c", messages=[*ASK, said, *ASK])
    episode.reward("reward", float(second.text == "B"))
    return str(second.text)


def test_a_conversation_is_played_and_deviated_from() -> None:
    def write(prompt: str, output: int) -> str:
        return "AB"[output] if prompt.count("Why?") == 1 else "AB"["\nB\n" in prompt]

    task = FlowTask([node()], conversation)
    assert run_play(FakeEngine(write), task).result == "A"
    trace = run_deviate(FakeEngine(write), task)
    assert [d.gain for d in trace.deviations] == [1.0]
    (preference,) = trace.preferences
    assert (preference.chosen.value.text, preference.rejected.value.text) == ("B", "A")
    assert preference.chosen.value == replace(preference.rejected.value, text="B")


def test_a_tool_call_reads_as_one() -> None:
    assert ToolCall("x", "add", '{"a": 1}').text == 'add({"a": 1})'
