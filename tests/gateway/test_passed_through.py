"""Models of another server: forwarded once, journaled, replayed and counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from flowtune_cli.flow.effect import error_from_json, error_to_json
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.client import async_client
from flowtune_cli.gateway.passed_through import Count, UpstreamError
from flowtune_cli.runtime import effects as running
from flowtune_cli.runtime.effects import Effects
from flowtune_cli.runtime.event_loop import EpisodeLimits
from flowtune_cli.runtime.play import play, recording_of
from flowtune_cli.runtime.replay import Plan
from support.chat_flows import USER, echo, error_of, result_of
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run, run_deviate
from support.scripted_chat import chat, saying
from support.upstream import COMPLETION, Upstream, serving


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serving() as made:
        yield made


@pytest.fixture
def gateway(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("BIG_KEY", "secret")
    declared = {"base_url": upstream.url, "model": "big", "api_key_env": "BIG_KEY"}
    return Gateway({"judge": declared, "plain": {"base_url": upstream.url + "/"}})


def ask(**more: Any) -> Any:
    async def program(client: Any) -> Any:
        return await client.chat.completions.create(**{"model": "judge", "messages": USER, **more})

    return program


def test_a_chat_is_forwarded_under_the_other_server_s_name(
    upstream: Upstream, gateway: Gateway
) -> None:
    got = result_of(ask(n=2, logit_bias={"1": 2}, user="me"), gateway=gateway)
    assert got.choices[0].message.content == "from afar"
    ((path, headers, body),) = upstream.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    # Whatever the other server can honour is its own to say.
    assert body == {"model": "big", "messages": USER, "n": 2, "logit_bias": {"1": 2}}
    assert gateway.forwarder.counts == {"judge": Count(1, 5, 2)}


def test_without_a_key_and_a_name(upstream: Upstream, gateway: Gateway) -> None:
    result_of(ask(model="plain"), gateway=gateway)
    ((path, headers, body),) = upstream.asked
    assert path == "/v1/chat/completions"
    assert "authorization" not in headers
    assert body["model"] == "plain"


def test_a_chat_is_streamed_as_chunks_of_what_came(upstream: Upstream, gateway: Gateway) -> None:
    async def program(client: Any) -> Any:
        options = {"include_usage": True}
        chunks = await ask(stream=True, stream_options=options)(client)
        return [chunk async for chunk in chunks]

    got = result_of(program, gateway=gateway)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in got[:-1])
    assert said == "from afar"
    assert got[-1].usage.total_tokens == 7
    assert "stream" not in upstream.asked[0][2]


def test_embeddings(upstream: Upstream, gateway: Gateway) -> None:
    async def program(client: Any) -> Any:
        got = await client.embeddings.create(model="judge", input="x", encoding_format="float")
        models = [model.id async for model in client.models.list()]
        return got.data[0].embedding, models

    assert result_of(program, gateway=gateway) == (
        [0.5, 0.25],
        ["draft", "check", "judge", "plain"],
    )
    assert upstream.asked[0][0] == "/v1/embeddings"
    assert gateway.forwarder.counts == {"judge": Count(1, 3, 0)}


def test_rollouts_and_resumed_runs_do_not_ask_again(upstream: Upstream, gateway: Gateway) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        client = async_client(episode, gateway)
        first = await client.chat.completions.create(model="draft", messages=USER)
        got = await ask(user=f"{len(upstream.asked)}")(client)
        episode.reward("reward", float(first.choices[0].message.content == "B"))
        return got.choices[0].message.content

    task = FlowTask([chat("draft")], flow)
    trace = run_deviate(FakeEngine(saying(lambda text, n: chr(65 + n))), task)
    assert trace.episode.failure is None, trace.episode.failure.traceback
    (deviation,) = trace.deviations
    assert deviation.gain == 1.0
    assert len(upstream.asked) == 1
    (record,) = trace.episode.effects
    assert record.name.endswith("Forwarder.forward")
    assert "secret" not in record.args
    plan = Plan(recording=recording_of(trace.episode))
    known = Effects(dict(trace.episode.runner.effects.ends))  # type: ignore[union-attr]
    again = run(FakeEngine(), play(task, EXAMPLE, plan=plan, effects=known))[0]
    assert again.result == "from afar"
    assert len(upstream.asked) == 1
    assert gateway.forwarder.counts["judge"].requests == 1


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ((400, {"error": {"message": "too long"}}), 400, "too long"),
        ((401, {"error": {"message": "bad key"}}), 401, "bad key"),
        ((429, {"error": {"message": "later"}}), 429, "later"),
        ((500, b"oops"), 500, "oops"),
        ((200, b"<html>"), 502, "no JSON"),
    ],
)
def test_its_errors_are_the_program_s(
    upstream: Upstream, gateway: Gateway, answer: Any, status: int, message: str
) -> None:
    upstream.answers = lambda path: answer
    error = error_of(ask(), gateway=gateway)
    assert error.status_code == status
    assert message in error.message
    assert len(upstream.asked) == 1
    assert gateway.forwarder.counts == {}


def test_a_stream_of_what_is_no_chat_is_an_error(upstream: Upstream, gateway: Gateway) -> None:
    upstream.answers = lambda path: (200, {"hello": 1})
    assert error_of(ask(stream=True), gateway=gateway).status_code == 502


def test_a_server_that_is_not_there() -> None:
    gateway = Gateway({"judge": {"base_url": "http://127.0.0.1:9/v1"}})
    error = error_of(ask(), gateway=gateway)
    assert error.status_code == 502
    assert "http://127.0.0.1:9/v1/chat/completions: ConnectError" in error.message


def test_what_passes_is_tried_again_as_effects_are(
    upstream: Upstream, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "FIRST_PAUSE_SECONDS", 0.01)
    upstream.answers = lambda path: (503 if len(upstream.asked) < 3 else 200, COMPLETION)

    async def flow(episode: Episode, example: Example) -> Any:
        got = await ask()(async_client(episode, gateway))
        return got.choices[0].message.content

    limits = EpisodeLimits(effect_retries=2)
    task = FlowTask([chat("draft")], flow)
    episode = run(FakeEngine(saying(echo)), play(task, EXAMPLE), limits=limits)[0]
    assert episode.result == "from afar"
    assert len(upstream.asked) == 3


def test_a_slow_one_is_limited_as_effects_are(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(name: str, url: str, body: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(gateway.forwarder, "forward", never)

    async def flow(episode: Episode, example: Example) -> Any:
        with pytest.raises(openai.APIStatusError) as caught:
            await ask()(async_client(episode, gateway))
        return caught.value.status_code

    limits = EpisodeLimits(effect_timeout=0.05)
    task = FlowTask([chat("draft")], flow)
    episode = run(FakeEngine(saying(echo)), play(task, EXAMPLE), limits=limits)[0]
    assert episode.result == 504


def test_its_errors_can_be_kept_in_a_journal() -> None:
    kept = error_to_json(UpstreamError(503, "busy"))
    assert kept is not None
    again = error_from_json(json.loads(json.dumps(kept)))
    assert isinstance(again, UpstreamError)
    assert (again.status, again.body) == (503, "busy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "base_url must begin with http"),
        ({"base_url": "ftp://x"}, "base_url must begin with http"),
        ({"base_url": 3}, "base_url must be a text"),
        ({"base_url": "http://x", "key": "y"}, "no option 'key'. Known: base_url, model"),
        ({"base_url": "http://x", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
    ],
)
def test_wrong_declarations(options: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gateway({"judge": options})
    assert message in str(caught.value)


def test_an_unknown_model_lists_those_passed_through(gateway: Gateway) -> None:
    error = error_of(ask(model="jugde"), gateway=gateway)
    assert "Did you mean 'judge'?" in error.message
    assert "Passed through to another server: judge, plain." in error.message
