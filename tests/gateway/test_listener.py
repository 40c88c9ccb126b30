"""The server on a socket: streams, clients that go away, and a stop in bounded time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.gateway.connections import is_loopback
from flowtune_cli.gateway.listener import Listener, check_address
from flowtune_cli.nodes import Chat
from support.fake_engine import FlowTask
from support.served import Served, served
from support.stepping_engine import SteppingEngine

ASK = {"model": "a", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def engine() -> SteppingEngine:
    return SteppingEngine(lambda node, prompt, output: "one two three")


@pytest.fixture
def made(engine: SteppingEngine) -> Iterator[Served]:
    async def flow(episode: Any, example: Any) -> Any:
        return await episode.call("a", messages=ASK["messages"])

    with served(FlowTask([Chat(name="a")], flow), engine) as made:
        yield made
        engine.go()


@contextmanager
def listening(made: Served, **more: Any) -> Iterator[tuple[Listener, threading.Thread]]:
    listener = Listener(made.app, "127.0.0.1", 0, **more)
    ready = threading.Event()
    thread = threading.Thread(target=listener.run, args=(ready.set,))
    thread.start()
    assert ready.wait(20)
    try:
        yield listener, thread
    finally:
        listener.stop()
        thread.join(40)
    assert not thread.is_alive()


def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come to pass")


def test_a_stream_comes_piece_by_piece(made: Served, engine: SteppingEngine) -> None:
    engine.hold()
    asked = {**ASK, "stream": True}
    with listening(made) as (listener, _), httpx2.Client(timeout=20) as client:
        url = f"{listener.url}/chat/completions"
        engine.allow()
        with client.stream("POST", url, json=asked) as response:
            lines = (line for line in response.iter_lines() if line)
            assert '"content": ""' in next(lines)
            assert '"content": "one"' in next(lines)
            engine.allow()
            assert '"content": " two"' in next(lines)
            engine.go()
            assert list(lines)[-1] == "data: [DONE]"
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("stream", [True, False])
def test_a_connection_that_breaks_frees_its_row(
    made: Served, engine: SteppingEngine, stream: bool
) -> None:
    engine.hold()
    with listening(made) as (listener, _):
        with pytest.raises(httpx2.ReadTimeout), httpx2.Client(timeout=0.5) as client:
            client.post(f"{listener.url}/chat/completions", json={**ASK, "stream": stream})
        until(lambda: not made.engine._open)
        engine.go()
        assert httpx2.get(f"{listener.url[:-3]}/health", timeout=20).status_code == 200


def test_what_runs_may_end_and_nothing_new_begins(made: Served, engine: SteppingEngine) -> None:
    engine.hold()
    got: list[Any] = []

    def ask(url: str) -> None:
        got.append(httpx2.post(f"{url}/chat/completions", json=ASK, timeout=20))

    with listening(made) as (listener, thread):
        asking = threading.Thread(target=ask, args=(listener.url,))
        asking.start()
        until(lambda: made.engine._open)
        listener.stop()

        def refused() -> bool:
            try:
                return httpx2.get(f"{listener.url}/models", timeout=2).status_code == 503
            except httpx2.HTTPError:
                return True

        until(refused)
        engine.go()
        asking.join(20)
        thread.join(20)
    assert got[0].json()["choices"][0]["message"]["content"] == "one two three"


def test_what_does_not_end_is_given_up(made: Served, engine: SteppingEngine) -> None:
    engine.hold()
    errors: list[Exception] = []

    def ask(url: str) -> None:
        try:
            httpx2.post(f"{url}/chat/completions", json=ASK, timeout=20)
        except httpx2.HTTPError as error:
            errors.append(error)

    with listening(made, stopping_seconds=1) as (listener, thread):
        asking = threading.Thread(target=ask, args=(listener.url,))
        asking.start()
        until(lambda: made.engine._open)
        begun = time.monotonic()
        listener.stop()
        thread.join(20)
        assert 0.5 < time.monotonic() - begun < 10
        asking.join(20)
    until(lambda: not made.engine._open)


def test_addresses(made: Served) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "::1", "[::1]"):
        assert is_loopback(host)
        check_address(host, has_key=False)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "example.com", "localhost.example.com"):
        assert not is_loopback(host)
        check_address(host, has_key=True)
        with pytest.raises(UsageError, match="FLOWTUNE_API_KEY"):
            check_address(host, has_key=False)
    with pytest.raises(UsageError, match="FLOWTUNE_API_KEY"):
        Listener(made.app, "0.0.0.0", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FlowtuneError, match=f"port {port} of 127.0.0.1 cannot be had"):
            Listener(made.app, "127.0.0.1", port)
