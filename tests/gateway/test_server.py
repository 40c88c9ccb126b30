"""Programs outside: over the loopback, with a token an episode; bad input of each kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.server import Address, Server
from flowtune_cli.runtime.play import play, recording_of
from flowtune_cli.runtime.replay import Plan
from support.chat_flows import USER, echo
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run, run_deviate, run_play
from support.scripted_chat import chat, saying

ASK = {"model": "draft", "messages": USER}
CHAT = "/chat/completions"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Gateway()) as made:
        yield made


def outside(server: Server, program: Callable[[Address], Any]) -> Any:
    """A flow that is a program in a thread, which is given nothing but an address."""

    async def flow(episode: Episode, example: Example) -> Any:
        with server.admitted(episode) as address:
            return await asyncio.to_thread(program, address)

    return flow


def episode_of(server: Server, program: Callable[[Address], Any], **more: Any) -> Episode:
    engine = more.pop("engine", None) or FakeEngine(saying(echo))
    task = FlowTask([chat("draft"), chat("check")], outside(server, program))
    return run_play(engine, task, **more)


def result_of(server: Server, program: Callable[[Address], Any], **more: Any) -> Any:
    episode = episode_of(server, program, **more)
    assert episode.failure is None, episode.failure.traceback
    return episode.result


def client_of(address: Address, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=address.base_url, api_key=address.api_key, **more)


def headers(address: Address) -> dict[str, str]:
    return {"authorization": f"Bearer {address.api_key}"}


def post(address: Address, content: bytes, path: str = CHAT, **more: Any) -> httpx2.Response:
    sent = {**headers(address), **more}
    return httpx2.post(f"{address.base_url}{path}", content=content, headers=sent, timeout=20)


def error_in(response: httpx2.Response) -> Any:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-should-retry"] == "false"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


class Slow(FakeEngine):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(saying(echo))
        self.asked = threading.Event()
        self.go = threading.Event()

    def answer(self, requests: list[Request]) -> list[Answer]:
        self.asked.set()
        assert self.go.wait(20)
        return super().answer(requests)


def test_a_program_outside(server: Server) -> None:
    def program(address: Address) -> Any:
        with client_of(address) as client:
            got = client.chat.completions.create(**ASK)
            with client.chat.completions.stream(model="check", messages=USER) as events:
                streamed = events.get_final_completion()
            response = client.responses.create(model="draft", input="hello")
            names = [model.id for model in client.models.list()]
        texts = [each.choices[0].message.content for each in (got, streamed)]
        return [*texts, response.output_text, names]

    said = "you said hello"
    assert result_of(server, program) == [said, said, said, ["draft", "check"]]


def test_a_program_outside_has_deviations_and_replays(server: Server) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        def program(address: Address) -> Any:
            with client_of(address) as client:
                first = client.chat.completions.create(**ASK).choices[0].message.content
                more = [{"role": "user", "content": first}]
                return client.chat.completions.create(model="check", messages=more).id, first

        with server.admitted(episode) as address:
            made, first = await asyncio.to_thread(program, address)
        episode.reward("reward", float(first == "B"))
        return made

    task = FlowTask([chat("draft"), chat("check")], flow)
    trace = run_deviate(FakeEngine(saying(lambda text, n: chr(65 + n))), task)
    assert trace.episode.failure is None, trace.episode.failure.traceback
    assert [d.gain for d in trace.deviations] == [1.0, 0.0]
    asked = FakeEngine()
    plan = Plan(recording=recording_of(trace.episode))
    again = run_play(asked, task, plan)
    assert (again.failure, again.result) == (None, trace.episode.result)
    assert asked.requests == []


SCRIPT = """
import asyncio, json, sys
import openai

async def main():
    client = openai.AsyncOpenAI()
    made = [
        client.chat.completions.create(model="draft", messages=[{"role": "user", "content": t}])
        for t in json.load(sys.stdin)
    ]
    print(json.dumps([each.choices[0].message.content for each in await asyncio.gather(*made)]))

asyncio.run(main())
"""


def test_another_process(server: Server, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(SCRIPT)

    def program(address: Address) -> Any:
        found = {"OPENAI_BASE_URL": address.base_url, "OPENAI_API_KEY": address.api_key}
        done = subprocess.run(
            [sys.executable, str(tmp_path / "flow.py")],
            input=json.dumps(["a", "b"]),
            env={**found, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout or done.stderr

    episode = episode_of(server, program)
    assert json.loads(episode.result) == ["you said a", "you said b"]
    assert len(episode.steps) == 2


def test_two_episodes_cannot_reach_each_other(server: Server) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        other = Episode(EXAMPLE, episode.nodes, episode.runner)
        with server.admitted(episode) as mine, server.admitted(other) as its:
            assert mine.base_url != its.base_url
            assert mine.api_key != its.api_key
            tried = [
                (mine.base_url, its.api_key),
                (its.base_url, mine.api_key),
                (mine.base_url[:-6] + "000/v1", mine.api_key),
                (mine.base_url, mine.api_key[:-1]),
                (mine.base_url, mine.api_key + "x"),
                (mine.base_url, "é".encode().decode("latin-1")),
                (mine.base_url.replace("/e/", "/"), mine.api_key),
                (f"http://127.0.0.1:{server.port}/v1", mine.api_key),
                (f"http://127.0.0.1:{server.port}/e//v1", mine.api_key),
            ]

            def program() -> Any:
                found = []
                for url, token in tried:
                    sent = {"authorization": f"Bearer {token}".encode("latin-1")}
                    for path in ("/models", CHAT):
                        method = "GET" if path == "/models" else "POST"
                        found.append(httpx2.request(method, url + path, headers=sent, json=ASK))
                for sent in ({}, {"authorization": mine.api_key}, {"authorization": "Basic x"}):
                    found.append(httpx2.get(f"{mine.base_url}/models", headers=sent))
                return [(each.status_code, error_in(each)["code"]) for each in found]

            found = await asyncio.to_thread(program)
            assert set(found) == {(401, "invalid_api_key")}
            assert len(found) == 21

    episode = run_play(FakeEngine(saying(echo)), FlowTask([chat("draft")], flow))
    assert episode.failure is None, episode.failure.traceback
    assert episode.steps == []


def test_an_episode_that_is_over_is_not_reached(server: Server) -> None:
    address = result_of(server, lambda address: address)
    with pytest.raises(openai.AuthenticationError, match="until its episode ends"):
        client_of(address).chat.completions.create(**ASK)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "could not be parsed as JSON"),
        (b"{", 400, "could not be parsed as JSON"),
        (b'{"model": "draft",}', 400, "could not be parsed as JSON"),
        (b"\xff\xfe", 400, "could not be parsed as JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"model": NaN}', 400, "NaN is no number of JSON"),
        (b'{"model": ' + b"1" * 5000 + b"}", 400, "could not be parsed as JSON"),
        (b"[]", 400, "must be an object"),
        (b"null", 400, "must be an object"),
        (b"{}", 400, "missing required parameter: 'model'"),
        (b'{"model": "draft", "messages": [], "frobnicate": 1}', 400, "there are none"),
        (
            b'{"model": "draft", "messages": [{"role": "user", "content": "a"}], "frobnicate": 1}',
            400,
            "unknown parameter: 'frobnicate'",
        ),
        (b'{"model": "no", "messages": [{"role": "user", "content": "a"}]}', 404, "does not exist"),
    ],
)
def test_bad_bodies(server: Server, body: bytes, status: int, message: str) -> None:
    def program(address: Address) -> Any:
        got = post(address, body)
        after = client_of(address).chat.completions.create(**ASK)
        return got, after.choices[0].message.content

    got, after = result_of(server, program)
    assert got.status_code == status
    assert message in error_in(got)["message"]
    assert after == "you said hello"


def test_other_methods_and_paths(server: Server) -> None:
    def program(address: Address) -> Any:
        sent = headers(address)
        return [
            httpx2.request(method, address.base_url + path, headers=sent)
            for method, path in [
                ("GET", CHAT),
                ("POST", "/models"),
                ("GET", "/files"),
                ("DELETE", "/"),
                ("GET", "/../v1/models/x"),
            ]
        ]

    found = result_of(server, program)
    assert [each.status_code for each in found] == [405, 405, 404, 404, 404]
    assert all(error_in(each)["type"] == "invalid_request_error" for each in found)


def test_bodies_over_the_limit() -> None:
    def program(address: Address) -> Any:
        long = json.dumps({**ASK, "user": "x" * 2000}).encode()
        told = post(address, long)
        parts = iter([long[:900], long[900:]])
        chunked = httpx2.post(address.base_url + CHAT, content=parts, headers=headers(address))
        packed = post(address, b"x", **{"content-encoding": "gzip"})
        after = client_of(address).chat.completions.create(**ASK)
        return told, chunked, packed, after

    with Server(Gateway(most_bytes=1000)) as server:
        told, chunked, packed, after = result_of(server, program)
    assert (told.status_code, chunked.status_code, packed.status_code) == (413, 413, 415)
    assert error_in(told)["code"] == error_in(chunked)["code"] == "request_too_large"
    assert after.choices[0].message.content == "you said hello"


def raw(address: Address, body: bytes, length: int | None = None, **more: str) -> bytes:
    """A request as bytes."""
    path = httpx2.URL(address.base_url).path + CHAT
    length = len(body) if length is None else length
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {address.api_key}",
        f"Content-Length: {length}",
        *[f"{name}: {value}" for name, value in more.items()],
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connection(address: Address) -> socket.socket:
    url = httpx2.URL(address.base_url)
    made = socket.create_connection((url.host, url.port or 80))
    made.settimeout(20)
    return made


def test_slow_clients_are_told_and_hold_up_nobody() -> None:
    def program(address: Address) -> Any:
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(connection(address)) for _ in range(50)]
            slow = stack.enter_context(connection(address))
            slow.sendall(raw(address, b'{"model":', length=100))
            start = time.monotonic()
            got = client_of(address).chat.completions.create(**ASK)
            quick = time.monotonic() - start
            answer = b"".join(iter(lambda: slow.recv(1000), b""))
            assert idle
            return got.choices[0].message.content, quick, answer

    with Server(Gateway(body_seconds=0.4)) as server:
        said, quick, answer = result_of(server, program)
    assert said == "you said hello"
    assert quick < 2
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.4 seconds" in answer


def test_connections_that_drop_in_the_middle_of_a_body(server: Server) -> None:
    def program(address: Address) -> Any:
        for _ in range(20):
            with connection(address) as dropped:
                dropped.sendall(raw(address, b'{"model":', length=100))
        return client_of(address).chat.completions.create(**ASK).choices[0].message.content

    episode = episode_of(server, program)
    assert episode.result == "you said hello"
    assert len(episode.steps) == 1


def test_a_retry_takes_over_the_call_whose_connection_was_dropped(server: Server) -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        body = json.dumps({**ASK, "temperature": 1, "user": "first"}).encode()
        with connection(address) as dropped:
            dropped.sendall(raw(address, body))
            assert engine.asked.wait(20)
        threading.Timer(0.3, engine.go.set).start()
        retry = json.dumps({"temperature": 1, **ASK, "stream": False}).encode()
        got = post(address, retry, **{"x-stainless-retry-count": "1"}).json()
        again = client_of(address).chat.completions.create(**ASK, temperature=1)
        return got["choices"][0]["message"]["content"], again.choices[0].message.content

    episode = episode_of(server, program, engine=engine)
    assert episode.failure is None, episode.failure.traceback
    # A further request of the same kind is a new occurrence, with noise of its own.
    assert len(episode.steps) == 2
    first, second = (step.output.value.text for step in episode.steps)
    assert episode.result == (first, second)
    assert first != second


def test_the_openai_client_retries_by_itself_after_its_time_is_up(server: Server) -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        threading.Timer(0.5, engine.go.set).start()
        with client_of(address, timeout=0.3, max_retries=5) as client:
            return client.chat.completions.create(**ASK).choices[0].message.content

    episode = episode_of(server, program, engine=engine)
    assert episode.result == "you said hello"
    assert len(episode.steps) == 1


def test_an_answer_that_nobody_was_there_for_is_kept_for_the_retry(server: Server) -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        with connection(address) as dropped:
            dropped.sendall(raw(address, json.dumps(ASK).encode()))
            assert engine.asked.wait(20)
        time.sleep(0.2)
        engine.go.set()
        time.sleep(0.2)
        return post(address, json.dumps(ASK).encode()).json()["choices"][0]["message"]["content"]

    episode = episode_of(server, program, engine=engine)
    assert episode.result == "you said hello"
    assert len(episode.steps) == 1


def test_two_equal_requests_at_once_are_two_calls(server: Server) -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        threading.Timer(0.3, engine.go.set).start()
        found: list[Any] = []

        def ask() -> None:
            with client_of(address) as client:
                got = client.chat.completions.create(**ASK, temperature=1)
                found.append(got.choices[0].message.content)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(set(found))

    assert result_of(server, program, engine=engine) == 2


def test_a_retry_that_comes_before_the_drop_is_noticed_waits_for_it(server: Server) -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        body = json.dumps(ASK).encode()
        dropped = connection(address)
        dropped.sendall(raw(address, body))
        assert engine.asked.wait(20)
        threading.Timer(0.3, dropped.close).start()
        threading.Timer(0.6, engine.go.set).start()
        return post(address, body, **{"x-stainless-retry-count": "1"}).status_code

    episode = episode_of(server, program, engine=engine)
    assert episode.result == 200
    assert len(episode.steps) == 1


def test_a_call_that_nobody_comes_back_for_is_cancelled() -> None:
    engine = Slow()

    def program(address: Address) -> Any:
        with connection(address) as dropped:
            dropped.sendall(raw(address, json.dumps(ASK).encode()))
            assert engine.asked.wait(20)
        time.sleep(0.6)
        engine.go.set()
        check = {**ASK, "model": "check"}
        return client_of(address).chat.completions.create(**check).choices[0].message.content

    with Server(Gateway(kept_seconds=0.1)) as server:
        episode = episode_of(server, program, engine=engine)
    assert episode.result == "you said hello"
    assert [step.node for step in episode.steps] == ["check"]


def test_a_node_s_error_is_the_flow_s_and_final_for_the_client(server: Server) -> None:
    met: list[Any] = []

    def program(address: Address) -> Any:
        client = client_of(address, max_retries=3)
        try:
            refuse: Any = [{"role": "user", "content": "REFUSE"}]
            client.chat.completions.create(model="draft", messages=refuse)
        except openai.APIStatusError as error:
            met.append((error.status_code, error.message))
        with pytest.raises(openai.APIStatusError):
            client.chat.completions.create(**ASK)

    with pytest.raises(FlowtuneError, match="this node refuses"):
        episode_of(server, program)
    deadline = time.monotonic() + 5
    while not met and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [status for status, _ in met] == [422]
    assert "this node refuses" in met[0][1]


def test_a_decided_rollout_s_program_is_told_that_it_is_over(server: Server) -> None:
    met: list[Any] = []

    async def flow(episode: Episode, example: Example) -> Any:
        def ask() -> Any:
            with client_of(address) as client:
                try:
                    return client.chat.completions.create(**ASK).choices[0].message.content
                except openai.APIStatusError as error:
                    met.append((error.status_code, error.code))
                    raise

        with server.admitted(episode) as address:
            first = await asyncio.to_thread(ask)
            episode.reward("reward", float(first == "B"))
            await asyncio.to_thread(ask)

    task = FlowTask([chat("draft"), chat("check")], flow)
    trace = run_deviate(FakeEngine(saying(lambda text, n: chr(65 + n))), task)
    assert trace.episode.failure is None
    first = next(d for d in trace.deviations if d.step == 0)
    assert first.rollout is not None
    assert (first.rollout.stopped_early, first.rollout.failure) == (True, None)
    assert met in ([(410, "episode_over")], [])


def test_many_at_once(server: Server) -> None:
    def program(address: Address) -> Any:
        async def ask(client: Any, text: str) -> Any:
            messages = [{"role": "user", "content": text}]
            got = await client.chat.completions.create(model="draft", messages=messages)
            return got.choices[0].message.content

        async def main() -> Any:
            async with openai.AsyncOpenAI(
                base_url=address.base_url, api_key=address.api_key
            ) as client:
                return await asyncio.gather(*[ask(client, f"{n}") for n in range(64)])

        return asyncio.run(main())

    assert result_of(server, program) == [f"you said {n}" for n in range(64)]


def test_it_closes_with_requests_under_way() -> None:
    engine = Slow()
    server = Server(Gateway())

    def program(address: Address) -> Any:
        closing = threading.Timer(0.2, server.close)
        closing.start()
        with client_of(address, max_retries=0) as client, pytest.raises(openai.APIError):
            client.chat.completions.create(**ASK)
        closing.join()
        engine.go.set()
        return "closed"

    assert result_of(server, program, engine=engine) == "closed"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_program_that_plays_one_episode_after_another_keeps_its_address(server: Server) -> None:
    known: list[Address] = []

    async def flow(episode: Episode, example: Example) -> Any:
        def ask() -> Any:
            got = client_of(known[0]).chat.completions.create(**ASK)
            return got.choices[0].message.content

        again = known[-1] if known else None
        with server.admitted(episode, again) as address:
            known.append(address)
            with (
                pytest.raises(ValueError, match="at one address"),
                server.admitted(episode, address),
            ):
                pass
            return await asyncio.to_thread(ask)

    task = FlowTask([chat("draft")], flow)
    played = [run_play(FakeEngine(saying(echo)), task) for _ in range(2)]
    assert [episode.result for episode in played] == ["you said hello"] * 2
    assert [len(episode.steps) for episode in played] == [1, 1]
    assert known[0] == known[1]


def test_it_listens_on_the_loopback_alone(server: Server) -> None:
    assert server._socket.getsockname()[0] == "127.0.0.1"


def test_an_engine_that_fails_lets_the_program_go() -> None:
    class Broken(FakeEngine):
        def answer(self, requests: list[Request]) -> list[Answer]:
            raise MemoryError("out of memory")

    met: list[Any] = []

    def program(address: Address) -> Any:
        try:
            client_of(address, max_retries=0).chat.completions.create(**ASK)
        except openai.APIError as error:
            met.append(type(error).__name__)

    with Server(Gateway()) as server:
        task = FlowTask([chat("draft")], outside(server, program))
        with pytest.raises(MemoryError):
            run(Broken(), play(task, EXAMPLE))
        deadline = time.monotonic() + 10
        while not met and time.monotonic() < deadline:
            time.sleep(0.01)
    assert met


def test_answers_do_not_wait_for_acknowledgements(server: Server) -> None:
    def program(address: Address) -> Any:
        found = []
        with client_of(address) as client:
            for _ in range(30):
                start = time.monotonic()
                client.chat.completions.create(**ASK)
                found.append(time.monotonic() - start)
        return min(found[10:])

    # Where Nagle's algorithm is on, it is the 40 ms of a delayed acknowledgement.
    assert result_of(server, program) < 0.03
