"""A served flow: its nodes and itself as models, errors, limits, keys and counts."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import SelfLearning
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.task import Task
from flowtune_cli.gateway.passed_through import Forwarder
from flowtune_cli.nodes import Chat, Generate, Judge, Rank
from flowtune_cli.training.other_models import play_elsewhere
from support.program_files import forget_modules
from support.scripted_chat import chat, last_user_text
from support.served import Served, served
from support.stepping_engine import SteppingEngine

USER: list[Any] = [{"role": "user", "content": "hello"}]
PIPELINE = Path(__file__).parents[2] / "examples" / "pipeline"


class Own(SelfLearning, Judge):
    def update(self, preferences: Any, targets: Any) -> float:
        return 0.0

    def state(self) -> Any:
        return {}

    def load_state(self, state: Any) -> None:
        pass


class Asked(Task):
    """A flow of every type of node."""

    name = "asked"
    nodes: Any = (
        chat("draft"),
        Generate(name="city", prompt=Template("Cities of {country}")),
        Generate(name="pair", prompt=Template("{a} or {b}?")),
        Judge(name="check", prompt=Template("Good? {text}")),
        Rank(name="best", prompt=Template("{candidate}")),
        Own(name="own", prompt=Template("{text}"), learn="nothing"),
    )

    def examples(self, source: Path | None, split: str) -> Any:
        yield Example("e1", {"country": "France"}, "Paris")

    async def run(self, episode: Episode, example: Example) -> Any:
        if example.country == "Nowhere":
            raise RuntimeError("there is no such country")
        city = await episode.call("city", country=example.country)
        return {"city": city} if example.country != "Plain" else city


def write(node: str, prompt: str, output: int) -> str:
    if node == "draft":
        return f"you said {last_user_text(prompt)} {output}"
    return f" {node} wrote after {prompt.split()[-1]} "


Make = Callable[..., AbstractContextManager[Served]]


@pytest.fixture
def engine() -> SteppingEngine:
    return SteppingEngine(write)


@pytest.fixture
def flow(engine: SteppingEngine) -> Iterator[Served]:
    with served(Asked(), engine) as made:
        yield made


async def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not come to pass in 20 seconds")


def text_of(made: Served, model: str, content: str, **more: Any) -> Any:
    async def program(client: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        got = await client.chat.completions.create(model=model, messages=messages, **more)
        return got.choices[0].message.content

    return made.run(program)


def error_of(made: Served, model: str, content: str, **more: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        text_of(made, model, content, **more)
    return caught.value


def test_the_three_endpoints_answer_whole_and_streamed(flow: Served) -> None:
    async def program(client: Any) -> Any:
        got = await client.chat.completions.create(model="draft", messages=USER)
        async with client.chat.completions.stream(model="draft", messages=USER) as events:
            streamed = await events.get_final_completion()
        text = await client.completions.create(model="draft", prompt="hello")
        chunks = await client.completions.create(model="draft", prompt="hello", stream=True)
        pieces = [chunk.choices[0].text async for chunk in chunks]
        response = await client.responses.create(model="draft", input="hello")
        async with client.responses.stream(model="draft", input="hello") as events:
            kinds = [event.type async for event in events]
            final = await events.get_final_response()
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-1] == "response.completed"
        assert got.usage == streamed.usage or streamed.usage is None
        assert final.usage == response.usage
        return [
            got.choices[0].message.content,
            streamed.choices[0].message.content,
            text.choices[0].text,
            "".join(pieces),
            response.output_text,
            final.output_text,
        ]

    assert flow.run(program) == ["you said hello 0"] * 6


def test_ids_are_new_and_times_are_now(flow: Served) -> None:
    async def program(client: Any) -> Any:
        made = [await client.chat.completions.create(model="draft", messages=USER) for _ in "ab"]
        chunks = await client.chat.completions.create(model="draft", messages=USER, stream=True)
        ids = {chunk.id async for chunk in chunks}
        return [each.id for each in made], ids, made[0].created

    (first, second), streamed, created = flow.run(program)
    assert len({first, second, *streamed}) == 3
    assert abs(created - time.time()) < 60


def test_a_stream_says_its_usage_and_its_end(flow: Served) -> None:
    async def program(client: Any) -> Any:
        chunks = await client.chat.completions.create(
            model="draft", messages=USER, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in chunks]

    chunks = flow.run(program)
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-2].choices[0].finish_reason == "stop"
    pieces = [chunk.choices[0].delta.content for chunk in chunks[:-2]]
    assert (pieces[0], "".join(pieces)) == ("", "you said hello 0")


def test_tool_calls_are_streamed_when_they_are_there() -> None:
    def call(node: str, prompt: str, output: int) -> str:
        return 'Let me see. CALL weather {"city": "Bern"}'

    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    with served(Asked(), SteppingEngine(call)) as made:

        async def program(client: Any) -> Any:
            ids = []
            for _ in range(2):
                async with client.chat.completions.stream(
                    model="draft", messages=USER, tools=tools
                ) as events:
                    final = await events.get_final_completion()
                (called,) = final.choices[0].message.tool_calls
                assert (called.function.name, called.function.arguments) == (
                    "weather",
                    '{"city": "Bern"}',
                )
                ids.append(called.id)
            return ids

        assert len(set(made.run(program))) == 2


def test_samples_are_new_unless_there_is_a_seed(flow: Served) -> None:
    sampled = {text_of(flow, "draft", "hello", temperature=1.0) for _ in range(4)}
    assert len(sampled) > 1
    seeded = {text_of(flow, "draft", "hello", temperature=1.0, seed=7) for _ in range(3)}
    assert len(seeded) == 1
    assert text_of(flow, "draft", "hello", temperature=1.0, seed=8) not in seeded


def test_nodes_with_a_prompt_of_their_own(flow: Served) -> None:
    expected = "city wrote after France"
    assert text_of(flow, "city", "France") == expected
    assert text_of(flow, "city", '{"country": "France"}') == expected
    assert text_of(flow, "city", '{"other": "France"}').endswith('after "France"}')
    assert text_of(flow, "pair", '{"a": "x", "b": ["y", "z"]}') == "pair wrote after z?"
    assert text_of(flow, "city", "France", temperature=0, seed=3) == expected

    async def program(client: Any) -> Any:
        chunks = await client.chat.completions.create(
            model="city", messages=[{"role": "user", "content": "France"}], stream=True
        )
        return [c.choices[0].delta.content async for c in chunks if c.choices]

    pieces = flow.run(program)
    assert "".join(p or "" for p in pieces) == expected


def test_what_such_nodes_refuse(flow: Served) -> None:
    error = error_of(flow, "pair", "x")
    assert error.status_code == 400
    assert "node 'pair' is asked by a JSON object of its inputs, with a, b" in error.message
    assert "'{b}'" in error_of(flow, "pair", '{"a": "x"}').message
    assert "'{a}'" in error_of(flow, "pair", '{"b": "x"}').message
    for more in ({"temperature": 0.5}, {"max_tokens": 3}, {"stop": "x"}, {"logprobs": True}):
        error = error_of(flow, "city", "France", **more)
        assert (error.status_code, error.code) == (400, "unsupported_parameter")
        assert error.param in more

    async def program(client: Any) -> Any:
        with pytest.raises(openai.BadRequestError, match="send one message, a user's"):
            await client.chat.completions.create(
                model="city", messages=[{"role": "system", "content": "x"}, *USER]
            )

    flow.run(program)


def test_a_judge_answers_its_label(flow: Served) -> None:
    assert text_of(flow, "check", "some text") in ("Yes", "No")
    scores = {"check": {"Yes": -5.0, "No": -1.0}}
    engine = SteppingEngine(write)
    engine.score = lambda node, prompt, completion: scores[node][completion.strip()]
    with served(Asked(), engine) as made:
        assert text_of(made, "check", "some text") == "No"
        assert "some text" in engine.requests[0].items[0][0].text  # type: ignore[union-attr]


def test_what_answers_no_text(flow: Served) -> None:
    error = error_of(flow, "best", "x")
    assert (error.status_code, error.code, error.param) == (400, "model_not_supported", "model")
    assert "node 'best' is a rank, which answers no text" in error.message
    assert "has a model of its own" in error_of(flow, "own", "x").message
    error = error_of(flow, "drat", "x")
    assert error.status_code == 404
    assert "Did you mean 'draft'?" in error.message
    listed = [model["id"] for model in flow.get("/v1/models").json()["data"]]
    assert listed == ["draft", "city", "pair", "check", "flow:asked"]
    assert flow.get("/v1/models/flow:asked").json()["id"] == "flow:asked"
    assert flow.get("/v1/models/own").status_code == 404


def test_the_flow_is_a_model(flow: Served) -> None:
    assert text_of(flow, "flow:asked", "France") == '{"city": "city wrote after France"}'
    assert text_of(flow, "flow:asked", '{"country": "Plain"}') == "city wrote after Plain"

    async def program(client: Any) -> Any:
        async with client.chat.completions.stream(
            model="flow:asked", messages=[{"role": "user", "content": "Plain"}]
        ) as events:
            streamed = await events.get_final_completion()
        whole = await client.responses.create(model="flow:asked", input="Plain")
        said = [{"role": "assistant", "content": "hi"}]
        with pytest.raises(openai.BadRequestError, match="send one message, a user's"):
            await client.chat.completions.create(model="flow:asked", messages=said)
        return streamed.choices[0].message.content, whole.output_text, whole.usage.output_tokens

    assert flow.run(program) == ("city wrote after Plain", "city wrote after Plain", 6)


def test_a_flow_that_fails_is_an_error_of_its_own(flow: Served, caplog: Any) -> None:
    error = error_of(flow, "flow:asked", "Nowhere")
    assert (error.status_code, error.code) == (500, "flow_failed")
    assert "there is no such country" in error.message
    assert "in run" in caplog.text
    assert text_of(flow, "flow:asked", "Plain") == "city wrote after Plain"
    assert error_of(flow, "flow:asked", "x", max_tokens=3).code == "unsupported_parameter"


def test_a_task_may_say_how_it_is_asked_and_how_it_answers(engine: SteppingEngine) -> None:
    class Own(Asked):
        def example_from_messages(self, messages: Any) -> Example:
            return Example("chat", {"country": messages[0]["content"]})

        def text_of(self, result: Any) -> str:
            return f"It is: {result['city']}"

    with served(Own(), engine) as made:
        assert text_of(made, "flow:asked", "Kenya") == "It is: city wrote after Kenya"


def test_requests_of_many_connections_share_steps(flow: Served, engine: SteppingEngine) -> None:
    engine.hold()

    async def main() -> list[str]:
        clients = [flow.client() for _ in range(8)]
        asked = [
            client.chat.completions.create(
                model="draft" if number % 2 else "flow:asked",
                messages=[{"role": "user", "content": f"n{number}"}],
            )
            for number, client in enumerate(clients)
        ]
        tasks = [asyncio.ensure_future(each) for each in asked]
        # What flows ask joins with the step after.
        await until(lambda: len(flow.engine._open) >= 5)
        engine.allow()
        await until(lambda: len(flow.engine._open) >= 8)
        engine.go()
        got = await asyncio.gather(*tasks)
        for client in clients:
            await client.close()
        return [each.choices[0].message.content for each in got]

    texts = asyncio.run(main())
    assert texts[1] == "you said n1 0"
    assert texts[2] == '{"city": "city wrote after n2"}'
    assert max(engine.rows) == 8
    assert len(engine.rows) < 8 * 4


def test_a_stream_is_sent_while_it_is_written(flow: Served, engine: SteppingEngine) -> None:
    engine.hold()

    async def main() -> None:
        sent: asyncio.Queue[Any] = asyncio.Queue()
        body = b'{"model": "draft", "stream": true, "messages": [{"role": "user", "content": "a"}]}'
        asked = asyncio.ensure_future(called(flow.app, body, sent.put, asyncio.Event()))
        await asyncio.sleep(0.05)
        assert sent.empty()
        for word in ("you", " said", " a"):
            engine.allow()
            if word == "you":
                assert (await asyncio.wait_for(sent.get(), 20))["status"] == 200
            got = await asyncio.wait_for(sent.get(), 20)
            assert f'"content": "{word}"' in got["body"].decode()
            assert got["more_body"] is True
        engine.go()
        assert await asyncio.wait_for(asked, 20) is None

    asyncio.run(main())


async def called(app: Any, body: bytes, send: Any, gone: asyncio.Event) -> None:
    """Call the app as a server does; the client goes away when it is told to."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"host", b"localhost")],
        "query_string": b"",
    }
    await app(scope, receive, send)


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("model", ["draft", "flow:asked"])
def test_a_client_that_goes_away_frees_its_row(
    flow: Served, engine: SteppingEngine, stream: str, model: str
) -> None:
    engine.hold()

    async def main() -> None:
        gone = asyncio.Event()
        sent: asyncio.Queue[Any] = asyncio.Queue()
        message = '[{"role": "user", "content": "a"}]'
        body = f'{{"model": "{model}", "stream": {stream}, "messages": {message}}}'
        asked = asyncio.ensure_future(called(flow.app, body.encode(), sent.put, gone))
        await until(lambda: flow.engine._open)
        engine.allow()
        await until(lambda: engine.rows)
        assert engine.rows == [1]
        gone.set()
        await asyncio.wait_for(asked, 20)
        await until(lambda: not flow.engine._open)

    asyncio.run(main())
    engine.allow()
    for _ in range(200):
        if len(engine.rows) > 1:
            break
        time.sleep(0.01)
    assert engine.rows == [1, 0]
    engine.go()
    assert f'flowtune_requests_total{{model="{model}",status="499"}} 1' in metrics(flow)
    assert "flowtune_open_requests 0" in metrics(flow)


def metrics(flow: Served) -> str:
    return str(flow.get("/metrics").text)


def test_too_many_requests_are_told_to_come_back(engine: SteppingEngine) -> None:
    engine.hold()
    with served(Asked(), engine, most_open=2) as made:

        async def main() -> Any:
            async with made.client() as client, made.http() as http:
                asked = [
                    asyncio.ensure_future(
                        client.chat.completions.create(model="draft", messages=USER)
                    )
                    for _ in range(2)
                ]
                await until(lambda: len(made.engine._open) >= 2)
                refused = await http.post(
                    "/v1/chat/completions", json={"model": "draft", "messages": USER}
                )
                listed = await http.get("/v1/models")
                engine.go()
                await asyncio.gather(*asked)
                await client.chat.completions.create(model="draft", messages=USER)
            return refused, listed

        refused, listed = asyncio.run(main())
        assert listed.status_code == 200
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["x-should-retry"] == "true"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 'flowtune_requests_total{model="unknown",status="429"} 1' in metrics(made)


def test_bodies_and_paths(engine: SteppingEngine) -> None:
    with served(Asked(), engine, most_bytes=300) as made:
        long = {"model": "draft", "messages": [{"role": "user", "content": "x" * 400}]}
        assert made.post("/v1/chat/completions", long).status_code == 413
        assert made.post("/v1/chat/completions", []).status_code == 400
        assert made.get("/v1/chat/completions").status_code == 405
        assert made.post("/v1/files", {}).status_code == 404
        assert made.get("/").status_code == 404
        asked = {"model": "draft", "input": "x"}
        assert "no embeddings" in made.post("/v1/embeddings", asked).json()["error"]["message"]
        unknown = {"model": "draft", "messages": USER, "frobnicate": 1}
        error = made.post("/v1/chat/completions", unknown).json()["error"]
        assert error["param"] == "frobnicate"


def test_a_key_is_asked_for(engine: SteppingEngine) -> None:
    with served(Asked(), engine, key="s3cret") as made:
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "s3cret"}):
            for path in ("/v1/models", "/metrics", "/v1/nothing"):
                got = made.get(path, **headers)
                assert (got.status_code, got.json()["error"]["code"]) == (401, "invalid_api_key")
            body = {"model": "draft", "messages": USER}
            assert made.post("/v1/chat/completions", body, **headers).status_code == 401
        assert engine.requests == []
        right = {"authorization": "Bearer s3cret"}
        assert made.get("/v1/models", **right).status_code == 200
        assert made.get("/metrics", **right).status_code == 200
        # Another name of the host is none of its business then.
        assert made.get("/v1/models", host="example.com", **right).status_code == 200
        assert made.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "example.com"}, 403),
        ({"host": "127.0.0.1.example.com"}, 403),
        ({"origin": "https://example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "[::1"}, 403),
    ],
)
def test_without_a_key_other_sites_pages_are_refused(
    flow: Served, headers: dict[str, str], status: int
) -> None:
    assert flow.get("/v1/models", **headers).status_code == status
    body = {"model": "draft", "messages": USER}
    assert flow.post("/v1/chat/completions", body, **headers).status_code == status


def test_a_server_that_stops_takes_no_more(flow: Served) -> None:
    flow.app.stopping = True
    got = flow.post("/v1/chat/completions", {"model": "draft", "messages": USER})
    assert (got.status_code, got.json()["error"]["code"]) == (503, "stopping")
    assert (flow.get("/health").status_code, flow.get("/health").json()) == (
        503,
        {"status": "stopping"},
    )


def test_an_engine_that_fails_fails_those_alone_whom_it_was_answering(
    flow: Served, engine: SteppingEngine, caplog: Any
) -> None:
    assert text_of(flow, "draft", "hello") == "you said hello 0"
    engine.failing = RuntimeError("a secret of the device")
    error = error_of(flow, "draft", "hello")
    assert error.status_code == 500
    assert "secret" not in error.message
    assert "a secret of the device" in caplog.text
    assert flow.get("/health").json() == {"status": "failing"}
    engine.failing = RuntimeError("a secret of the device")
    assert error_of(flow, "flow:asked", "France").status_code == 500
    assert text_of(flow, "flow:asked", "Plain") == "city wrote after Plain"
    assert flow.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses"])
def test_an_engine_that_fails_within_a_stream_is_told_in_it(
    flow: Served, engine: SteppingEngine, endpoint: str
) -> None:
    engine.hold()

    async def main() -> Any:
        async with flow.client() as client:
            got = asyncio.ensure_future(read(client))
            await until(lambda: flow.engine._open)
            engine.allow()
            await until(lambda: engine.rows)
            engine.failing = RuntimeError("broken")
            engine.allow()
            return await asyncio.wait_for(got, 20)

    async def read(client: Any) -> Any:
        pieces = []
        asked = {"model": "draft", "stream": True}
        if endpoint == "chat":
            chunks = await client.chat.completions.create(messages=USER, **asked)
        elif endpoint == "completions":
            chunks = await client.completions.create(prompt="hello", **asked)
        else:
            chunks = await client.responses.create(input="hello", **asked)
        try:
            async for chunk in chunks:
                if endpoint == "responses":
                    pieces += [chunk.delta] if chunk.type.endswith("delta") else []
                else:
                    (choice,) = chunk.choices
                    pieces.append(choice.delta.content if endpoint == "chat" else choice.text)
        except openai.APIError as error:
            return pieces, error.message
        raise AssertionError("the stream ended well")

    pieces = ["", "you"] if endpoint == "chat" else ["you"]
    assert asyncio.run(main()) == (pieces, "the server failed; its log has more")


def test_counts(flow: Served) -> None:
    text_of(flow, "draft", "hello")
    text_of(flow, "draft", "hello")
    text_of(flow, "check", "hello")
    error_of(flow, "nothing", "hello")
    lines = metrics(flow).splitlines()
    assert 'flowtune_requests_total{model="draft",status="200"} 2' in lines
    assert 'flowtune_requests_total{model="check",status="200"} 1' in lines
    assert 'flowtune_requests_total{model="unknown",status="404"} 1' in lines
    assert 'flowtune_completion_tokens_total{model="draft"} 8' in lines
    assert 'flowtune_request_seconds_count{model="draft"} 2' in lines
    assert 'flowtune_request_seconds_bucket{model="draft",le="+Inf"} 2' in lines
    assert f"flowtune_engine_steps_total {flow.engine.steps}" in lines
    assert "flowtune_engine_running 0" in lines


def test_effects_are_run_by_the_program(flow: Served) -> None:
    begun = flow.post("/v1/effects", {"name": "search", "args": ["lamps"]}).json()
    path = f"/v1/effects/{begun['run']}"
    assert flow.post(path, {"result": [1, "a"]}).json() == {"result": [1, "a"]}
    assert flow.post(path, {"error": "no"}).json() == {"error": "no"}
    assert flow.post(path, {}).status_code == 400
    assert flow.post("/v1/effects", {"args": []}).status_code == 400


def test_models_of_other_servers_are_asked(
    engine: SteppingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    async def forward(self: Any, name: str, url: str, body: Any) -> Any:
        sent.append((name, url, body))
        message = {"role": "assistant", "content": "from there"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        made = {"id": "x", "created": 1, "model": body["model"], "choices": [choice]}
        return {"status": 200, "body": {**made, "object": "chat.completion"}}

    monkeypatch.setattr(Forwarder, "forward", forward)
    others = {"gpt": {"base_url": "http://other/v1", "model": "gpt-9"}}
    with served(Asked(), engine, others=others) as made:
        assert text_of(made, "gpt", "hello") == "from there"
        assert sent == [
            ("gpt", "http://other/v1/chat/completions", {"model": "gpt-9", "messages": USER})
        ]
        assert "gpt" in [each["id"] for each in made.get("/v1/models").json()["data"]]


def test_the_program_that_was_trained_runs_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(node: str, prompt: str, output: int) -> str:
        if node == "extract":
            return '{"order": "A17"}'
        return "2" if node == "choose" else ("on Monday", "gladly")["warmly" in prompt]

    monkeypatch.setattr(sys, "path", [str(PIPELINE), *sys.path])
    from pipeline import run  # type: ignore[import-not-found]

    class Pipeline(Asked):
        nodes: Any = tuple(Chat(name=name) for name in ("extract", "draft", "choose"))

    with served(Pipeline(), SteppingEngine(answers)) as made:

        async def program(client: Any) -> Any:
            return await run({"question": "Where is A17?"}, client)

        assert made.run(program) == {"order": "A17", "answer": "gladly"}
    forget_modules(PIPELINE)


class Elsewhere(Asked):
    """Nodes that other models play: one loaded beside the base model, one of another server."""

    nodes: Any = (
        Generate(name="city", prompt=Template("Cities of {country}"), model="small"),
        Generate(
            name="remote",
            prompt=Template("{text}"),
            model={"url": "http://127.0.0.1:9/v1", "name": "big"},
        ),
    )


def test_nodes_that_other_models_play(engine: SteppingEngine) -> None:
    task = Elsewhere()
    play_elsewhere(task.nodes)
    with served(task, engine) as made:
        text_of(made, "city", "France")
        assert [request.model for request in engine.requests] == ["small"]
        refused = error_of(made, "remote", "hello")
    assert (refused.status_code, "played by big, of another server" in refused.message) == (
        400,
        True,
    )
