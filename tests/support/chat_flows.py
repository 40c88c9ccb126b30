"""Flows that are programs on the ``openai`` client, played with a script."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.client import async_client
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.scripted_chat import chat, saying

Script = Callable[[str, int], str]
Program = Callable[[Any], Coroutine[Any, Any, Any]]

USER: list[Any] = [{"role": "user", "content": "hello"}]


def echo(text: str, output: int) -> str:
    return f"you said {text}"


def play_program(
    program: Program, script: Script = echo, gateway: Gateway | None = None, **more: Any
) -> Episode:
    """An episode whose flow is a program that gets a client in process."""

    async def flow(episode: Episode, example: Example) -> Any:
        return await program(async_client(episode, gateway or Gateway()))

    nodes = [chat("draft", **more), chat("check")]
    return run_play(FakeEngine(saying(script)), FlowTask(nodes, flow))


def result_of(program: Program, script: Script = echo, **more: Any) -> Any:
    """What the program returns."""
    episode = play_program(program, script, **more)
    assert episode.failure is None, episode.failure.traceback
    return episode.result


def error_of(program: Program, **more: Any) -> openai.APIStatusError:
    """The error that a program meets; it goes on after it."""

    async def goes_on(client: Any) -> Any:
        with pytest.raises(openai.APIStatusError) as caught:
            await program(client)
        after = await client.chat.completions.create(model="draft", messages=USER)
        assert after.choices[0].message.content == "you said hello"
        return caught.value

    error: openai.APIStatusError = result_of(goes_on, **more)
    return error
