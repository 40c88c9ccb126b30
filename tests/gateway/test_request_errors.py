"""Errors that programs were sent are kept with their episode, as a program may catch them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import openai

from flowtune_cli.flow.episode import Episode, RequestError
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.server import Server
from support.chat_flows import USER, echo, play_program
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.scripted_chat import chat, saying
from support.upstream import serving


def test_a_request_in_process_names_its_line() -> None:
    async def program(client: Any) -> None:
        with contextlib.suppress(openai.APIError):
            await client.chat.completions.create(model="dratf", messages=USER)

    [error] = play_program(program).request_errors
    assert error.code == "model_not_found"
    assert error.message.startswith("the model 'dratf' does not exist. Did you mean 'draft'?")
    assert error.place is not None
    assert error.place.startswith(f"{__file__}, line ")


def test_a_request_from_outside() -> None:
    with Server(Gateway()) as server:

        async def flow(episode: Episode, example: Example) -> None:
            with (
                server.admitted(episode) as address,
                openai.OpenAI(base_url=address.base_url, api_key=address.api_key) as client,
            ):
                await asyncio.to_thread(program, client)

        def program(client: openai.OpenAI) -> None:
            with contextlib.suppress(openai.APIError):
                client.chat.completions.create(model="draft", messages=USER, n=2)  # type: ignore[call-overload]
            client.chat.completions.create(model="draft", messages=USER)  # type: ignore[call-overload]

        episode = run_play(FakeEngine(saying(echo)), FlowTask([chat("draft")], flow))
    assert episode.failure is None, episode.failure.traceback
    [error] = episode.request_errors
    assert (error.code, error.place) == ("unsupported_parameter", None)
    assert len(episode.steps) == 1


def test_what_another_server_refuses() -> None:
    async def program(client: Any) -> None:
        with contextlib.suppress(openai.APIError):
            await client.chat.completions.create(model="big", messages=USER)

    with serving() as upstream:
        upstream.answers = lambda path: (401, {"error": {"message": "bad key"}})
        episode = play_program(program, gateway=Gateway({"big": {"base_url": upstream.url}}))
    [error] = episode.request_errors
    assert error == RequestError(
        'the other server: 401: {"error": {"message": "bad key"}}', None, error.place
    )
