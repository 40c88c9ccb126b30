"""The wire format, as the ``openai`` client reads it, in process."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.client import async_client
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.scripted_chat import chat, saying

Script = Callable[[str, int], str]
USER = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def echo(text: str, output: int) -> str:
    return f"you said {text}"


def call_weather(text: str, output: int) -> str:
    return 'Let me see. CALL weather {"city": "Bern"}CALL weather {"city": "Rom"}'


def ask(
    question: Callable[[Any], Coroutine[Any, Any, Any]], script: Script = echo, **more: Any
) -> Any:
    """The result of a flow that gets a client."""
    return played(question, script, **more).result


def played(
    question: Callable[[Any], Coroutine[Any, Any, Any]], script: Script = echo, **more: Any
) -> Episode:
    async def flow(episode: Episode, example: Example) -> Any:
        return await question(async_client(episode))

    nodes = [chat("draft", **more), chat("judge")]
    episode = run_play(FakeEngine(saying(script)), FlowTask(nodes, flow))
    assert episode.failure is None, episode.failure.traceback
    return episode


def refused(question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    """The error that a request is answered with; the flow goes on."""

    async def flow(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as caught:
            await question(client)
        after = await client.chat.completions.create(model="draft", messages=USER)
        assert after.choices[0].message.content == "you said hello"
        return caught.value

    return ask(flow)


def test_a_chat_completion() -> None:
    async def flow(client: Any) -> Any:
        return await client.chat.completions.create(model="draft", messages=USER)

    got: ChatCompletion = ask(flow)
    (choice,) = got.choices
    assert choice.message.content == "you said hello"
    assert choice.message.role == "assistant"
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert got.model == "draft"
    assert got.id.startswith("chatcmpl-")
    assert got.usage is not None
    assert got.usage.completion_tokens == 3
    assert got.usage.total_tokens == got.usage.prompt_tokens + 3
    assert got.created == ask(flow).created
