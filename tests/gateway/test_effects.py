"""Tools of programs outside, which run once for an episode and its rollouts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.server import Address, Server
from support.fake_engine import FakeEngine, FlowTask, run_deviate, run_play
from support.scripted_chat import chat, saying


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Gateway()) as made:
        yield made


def post(address: Address, path: str, body: Any) -> httpx2.Response:
    return httpx2.post(
        f"{address.base_url}{path}",
        content=json.dumps(body),
        headers={"authorization": f"Bearer {address.api_key}"},
        timeout=20,
    )


def remembered(address: Address, tool: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """As a program's own helper would be: the tool runs where nobody remembers its end."""
    found = post(address, "/effects", {"name": "tool", "args": [*args], **more}).json()
    if "run" in found:
        try:
            body = {"result": tool(*args)}
        except Exception as error:
            body = {"error": str(error)}
        found = post(address, f"/effects/{found['run']}", body).json()
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["result"]


def letters(text: str, output: int) -> str:
    return f"{chr(65 + output)} {text}"


def task(server: Server, program: Callable[[Address], Any]) -> FlowTask:
    async def flow(episode: Episode, example: Example) -> Any:
        with server.admitted(episode) as address:
            result = await asyncio.to_thread(program, address)
        episode.reward("reward", float(len(str(result)) % 3))
        return result

    return FlowTask([chat("draft", reward="reward")], flow)


def ask(address: Address, content: str) -> str:
    client = openai.OpenAI(base_url=address.base_url, api_key=address.api_key)
    message: Any = {"role": "user", "content": content}
    answer = client.chat.completions.create(model="draft", messages=[message])
    return str(answer.choices[0].message.content)


def test_a_tool_runs_once_for_the_episode_and_its_rollouts(server: Server) -> None:
    runs: list[str] = []

    def tool(text: str) -> dict[str, Any]:
        runs.append(text)
        return {"hits": len(runs)}

    def program(address: Address) -> Any:
        first = remembered(address, tool, "start")
        draft = ask(address, "hello")
        again = remembered(address, tool, "start")
        other = remembered(address, tool, draft)
        return [first, again, other, draft]

    trace = run_deviate(FakeEngine(saying(letters)), task(server, program))
    assert trace.failures == []
    (deviation,) = trace.deviations
    assert deviation.rollout is not None
    first, again, other, draft = trace.episode.result
    assert [first, again, other] == [{"hits": 1}, {"hits": 2}, {"hits": 3}]
    assert deviation.rollout.result[:2] == [first, again]
    assert deviation.rollout.result[2] == {"hits": 4}
    assert runs == ["start", "start", draft, deviation.rollout.result[3]]
    assert [json.loads(effect.args) for effect in trace.episode.effects] == [
        ["tool", ["start"]],
        ["tool", ["start"]],
        ["tool", [draft]],
    ]


def test_what_a_tool_raised_is_remembered(server: Server) -> None:
    runs: list[int] = []

    def tool() -> None:
        runs.append(1)
        raise ConnectionError("no route")

    def program(address: Address) -> Any:
        try:
            remembered(address, tool)
        except RuntimeError as error:
            return f"{error}: {ask(address, str(error))}"
        return None

    trace = run_deviate(FakeEngine(saying(letters)), task(server, program))
    assert trace.episode.result.startswith("no route: ")
    (deviation,) = trace.deviations
    assert deviation.outcome is not Outcome.FAILED
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/effects", {"args": []}, 400, "name"),
        ("/effects", {"name": "t", "args": {}}, 400, "args"),
        ("/effects", {"name": "t", "function": "f"}, 400, "function"),
        ("/effects/nothing", {"result": 1}, 404, "there is no run 'nothing'"),
        ("/effects/nothing", {}, 400, "result"),
        ("/effects/nothing", {"error": 1}, 400, "error"),
    ],
)
def test_bad_input(server: Server, path: str, body: Any, status: int, said: str) -> None:
    def program(address: Address) -> Any:
        response = post(address, path, body)
        return response.status_code, response.json()["error"]["message"]

    found = run_play(FakeEngine(saying(letters)), task(server, program)).result
    assert found[0] == status
    assert said in found[1]


def test_another_episode_cannot_end_a_run(server: Server) -> None:
    runs: list[str] = []

    def program(address: Address) -> Any:
        if runs:
            return post(address, f"/effects/{runs[0]}", {"result": "stolen"}).status_code
        runs.append(post(address, "/effects", {"name": "t", "args": []}).json()["run"])
        inner = run_play(FakeEngine(saying(letters)), task(server, program)).result
        return inner, post(address, f"/effects/{runs[0]}", {"result": "own"}).json()

    assert run_play(FakeEngine(saying(letters)), task(server, program)).result == (
        404,
        {"result": "own"},
    )


def test_as_the_guide_has_it(server: Server) -> None:
    """The helper that the guide gives, by the openai client's own post."""
    runs: list[str] = []

    async def tool(text: str) -> str:
        runs.append(text)
        return f"found {text}"

    async def remembered_by(client: Any, tool: Any, *args: Any) -> Any:
        body: dict[str, Any] = {"name": tool.__name__, "args": args}
        found = await client.post("/effects", body=body, cast_to=object)
        if "run" in found:
            end = {"result": await tool(*args)}
            found = await client.post(f"/effects/{found['run']}", body=end, cast_to=object)
        return found["result"]

    def program(address: Address) -> Any:
        async def main() -> list[Any]:
            async with openai.AsyncOpenAI(
                base_url=address.base_url, api_key=address.api_key
            ) as client:
                found = await remembered_by(client, tool, "lamps")
                return [found, await asyncio.to_thread(ask, address, found)]

        return asyncio.run(main())

    trace = run_deviate(FakeEngine(saying(letters)), task(server, program))
    assert trace.failures == []
    assert trace.episode.result == ["found lamps", "A found lamps"]
    assert runs == ["lamps"]
