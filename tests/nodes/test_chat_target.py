"""Targets of Chat nodes that are messages: what is learned of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import TextDatum
from flowtune_cli.flow.prompt import Message, Segment, ToolCall
from flowtune_cli.nodes import Chat
from flowtune_cli.testing import TinySession, training_data
from support.fake_engine import FakeEngine, FlowTask, run_play

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CALL = {"function": {"name": "look", "arguments": {"at": "left"}}}
TARGET = {"content": None, "tool_calls": [CALL]}
EXAMPLE = Example("e", {"question": "Where?"}, gold=TARGET)


def task(**more: Any) -> FlowTask:
    async def flow(episode: Episode, example: Example) -> Any:
        messages = [{"role": "user", "content": example.question}]
        # The tiny model cannot learn to end: the end's embedding, that of its padding, is zero.
        # Behind a whole call, this lets nothing else follow.
        constraint = {"kind": "text"}
        await episode.call("agent", messages=messages, tools=TOOLS, constraint=constraint)
        episode.target("agent", example.gold)

    return FlowTask([Chat(name="agent", learn="supervised", **more)], flow)


def learned(gold: Any) -> Any:
    made = task()
    example = Example("e", {"question": "Where?"}, gold=gold)
    episode = run_play(FakeEngine(), made, example=example)
    (datum,) = training_data(made, Trace(example, episode))["agent"]
    assert isinstance(datum, TextDatum)
    return datum.completion


def test_what_is_learned_of_a_message() -> None:
    call = ToolCall("000000000", "look", '{"at": "left"}')
    assert learned(TARGET) == Message("assistant", (), (call,))
    whole = {"id": "call1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert learned({"role": "assistant", "content": "So.", "tool_calls": [whole]}) == Message(
        "assistant", (Segment("So."),), (ToolCall("call1", "look", "{}"),)
    )
    assert learned({"role": "assistant", "content": " So. "}) == "So."
    assert learned(" So. ") == "So."


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("", "learns from target texts or messages; got '' instead of one"),
        (3, "got 3 instead of one"),
        ({"content": " "}, "the target is an empty message"),
        ({"role": "user", "content": "x"}, "a message of the role 'user'"),
        ({"role": "assistant"}, r"the target is no message: messages\[0\] has no content"),
        ({"tool_calls": ["look"]}, r"the target is no message: messages\[0\]\.tool_calls\[0\]"),
        ({"tool_calls": [{"function": {"name": "look"}}]}, "arguments must be the text of a JSON"),
        (
            {"tool_calls": [{"function": {"name": "lock", "arguments": {}}}]},
            "the target calls another tool: .*'lock'. Did you mean 'look'",
        ),
    ],
)
def test_what_is_no_target_is_an_error(gold: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        learned(gold)


def test_a_call_that_is_learned_is_made(tiny_model_dir: Path) -> None:
    settings = {
        "adapter": {"rank": 8, "targets": "all-linear"},
        "learning": {"optimizer": {"name": "adam", "lr": 5e-3}},
    }
    made = task(max_new_tokens=100)
    tiny = TinySession(made, tiny_model_dir, settings)
    (before,) = tiny.play([EXAMPLE])
    assert before.steps[0].output.value.tool_calls == ()
    data = training_data(made, Trace(EXAMPLE, before))["agent"]
    session = tiny._session
    learner = session.learner()
    losses = [session.update(learner, "agent", {"agent": data})["agent"].loss for _ in range(30)]
    assert losses[-1] < losses[0] / 10
    session.engine.forget()
    (after,) = tiny.play([EXAMPLE])
    answer = after.steps[0].output.value
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look", {"at": "left"})


def target_under(constraint: Any, gold: Any, **more: Any) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        messages = [{"role": "user", "content": "Which?"}]
        await episode.call("agent", messages=messages, constraint=constraint, **more)
        episode.target("agent", gold)

    made = FlowTask([Chat(name="agent", learn="supervised")], flow)
    example = Example("e", {}, gold=gold)
    training_data(made, Trace(example, run_play(FakeEngine(), made, example=example)))


CHOICE = {"kind": "choice", "value": ["billing", " repairs"]}
SCHEMA = {"kind": "json_schema", "value": {"type": "object", "required": ["team"]}}
REQUIRED = {"tools": TOOLS, "tool_choice": "required"}


@pytest.mark.parametrize(
    ("constraint", "gold", "more", "said"),
    [
        (CHOICE, "delivery", {}, "'delivery' cannot be written under .* it is none of 'billing'"),
        ({"kind": "regex", "value": "[a-z]+"}, "A1", {}, "it does not match the regex"),
        ({"kind": "json_object"}, "billing", {}, "it is not JSON"),
        ({"kind": "json_object"}, "[1]", {}, "it is no JSON object"),
        (SCHEMA, '{"name": 1}', {}, "it lacks what the schema requires: team"),
        (None, "billing", REQUIRED, "a tool has to be called"),
    ],
)
def test_a_target_that_the_constraint_never_lets_through(
    constraint: Any, gold: Any, more: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=f"example 'e': node 'agent': the target .*{said}"):
        target_under(constraint, gold, **more)


@pytest.mark.parametrize(
    ("constraint", "gold", "more"),
    [
        (CHOICE, "repairs", {}),
        ({"kind": "regex", "value": "[a-z]+"}, "billing", {}),
        ({"kind": "regex", "value": r"\p{L}+"}, "A1", {}),
        (SCHEMA, '{"team": 1}', {}),
        ({"kind": "json_schema", "value": {"enum": [1]}}, "1", {}),
        (CHOICE, TARGET, {"tools": TOOLS}),
        (None, TARGET, REQUIRED),
    ],
)
def test_targets_that_a_constraint_lets_through(constraint: Any, gold: Any, more: Any) -> None:
    target_under(constraint, gold, **more)
