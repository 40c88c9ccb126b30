"""Clients of the flow's own process: of an episode or of a module, asynchronous or in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Answer, Request
from flowtune_cli.gateway import client as clients
from flowtune_cli.runtime.event_loop import EpisodeLimits, running_loop
from flowtune_cli.runtime.play import play
from support.chat_flows import USER, echo, play_program, result_of
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, run, run_play
from support.scripted_chat import chat, saying

of_module = clients.async_client()
made_by_hand = openai.AsyncOpenAI(
    base_url=clients.BASE_URL, api_key="none", http_client=clients.http_async_client()
)
sync_of_module = clients.client()
sync_by_hand = openai.OpenAI(
    base_url=clients.BASE_URL, api_key="none", http_client=clients.http_client()
)


def content(completion: Any) -> Any:
    return completion.choices[0].message.content


def say(text: str, **more: Any) -> Any:
    return {"model": "draft", "messages": [{"role": "user", "content": text}], **more}


def episode_of(flow: Any, **more: Any) -> Episode:
    task = FlowTask([chat("draft"), chat("check")], flow)
    return run(FakeEngine(saying(echo)), play(task, EXAMPLE), **more)[0]


@pytest.mark.parametrize("client", [of_module, made_by_hand])
def test_a_client_of_a_module_reaches_the_flow_that_runs(client: Any) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        first, second = await asyncio.gather(
            client.chat.completions.create(**say(f"{example.id} 1")),
            client.chat.completions.create(**say(f"{example.id} 2")),
        )
        return content(first), content(second)

    task = FlowTask([chat("draft")], flow)
    examples = [Example(f"e{number}", {}, gold=1) for number in range(3)]
    played = run(FakeEngine(saying(echo)), *[play(task, each) for each in examples])
    assert [episode.result for episode in played] == [
        (f"you said {each.id} 1", f"you said {each.id} 2") for each in examples
    ]
    assert [len(episode.steps) for episode in played] == [2, 2, 2]


@pytest.mark.parametrize("client", [sync_of_module, sync_by_hand])
def test_a_synchronous_client_in_threads(client: Any) -> None:
    def program(name: str) -> Any:
        first = content(client.chat.completions.create(**say(name)))
        with client.chat.completions.stream(**say(first)) as events:
            return events.get_final_completion().choices[0].message.content

    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.gather(*[asyncio.to_thread(program, name) for name in "abc"])

    episode = episode_of(flow)
    assert episode.failure is None, episode.failure.traceback
    assert episode.result == [f"you said you said {name}" for name in "abc"]
    assert len(episode.steps) == 6


def test_a_client_of_an_episode_in_a_thread_of_its_own() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        client = clients.client(episode)
        got: list[Any] = []
        work = lambda: got.append(client.chat.completions.create(**say("a")))  # noqa: E731
        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join)
        return content(got[0])

    assert episode_of(flow).result == "you said a"


def test_an_event_loop_of_the_program_s_own_in_a_thread() -> None:
    async def program() -> Any:
        made = [of_module.chat.completions.create(**say(text)) for text in "ab"]
        return [content(each) for each in await asyncio.gather(*made)]

    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.to_thread(asyncio.run, program())

    assert episode_of(flow).result == ["you said a", "you said b"]


def test_a_synchronous_client_on_the_flow_s_own_loop_is_an_error_and_no_deadlock() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        with pytest.raises(Exception):  # noqa: B017, PT011
            sync_by_hand.chat.completions.create(**say("a"))

    start = time.monotonic()
    with pytest.raises(UsageError, match=r"asyncio\.to_thread.*test_client\.py, line") as caught:
        episode_of(flow)
    assert "wait for itself" in str(caught.value)
    assert time.monotonic() - start < 2


def test_without_a_flow_it_is_said_what_to_do() -> None:
    with pytest.raises(openai.BadRequestError, match="no flow runs here"):
        sync_by_hand.chat.completions.create(**say("a"))
    with pytest.raises(openai.BadRequestError, match="no flow runs here"):
        asyncio.run(made_by_hand.chat.completions.create(**say("a")))


def test_a_thread_without_the_flow_s_context_is_told_how_to_have_it() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        caught: list[Any] = []

        def work() -> None:
            try:
                caught.append(content(sync_of_module.chat.completions.create(**say("a"))))
            except openai.BadRequestError as error:
                caught.append(error.message)

        with_context = contextvars.copy_context()
        for target in (work, lambda: with_context.run(work)):
            thread = threading.Thread(target=contextvars.Context().run, args=(target,))
            thread.start()
            await asyncio.to_thread(thread.join)
        return caught

    without, having = episode_of(flow).result
    assert "copy_context" in without
    assert having == "you said a"


def test_an_episode_whose_flow_does_not_run_is_refused() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return None

    client = clients.client(Episode(EXAMPLE, {}))
    with pytest.raises(openai.BadRequestError, match="does not run"):
        client.chat.completions.create(**say("a"))
    ended = episode_of(flow)
    with pytest.raises(asyncio.CancelledError):
        clients.client(ended).chat.completions.create(**say("a"))


def test_calls_side_by_side_are_made_in_the_order_of_the_program_and_in_no_thread() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        client = clients.async_client(episode).with_options(timeout=9)
        tasks = [
            asyncio.create_task(client.chat.completions.create(**say(str(n)))) for n in range(9)
        ]
        await asyncio.sleep(0)
        assert not running_loop().waits_outside
        await asyncio.gather(*tasks)

    episode = episode_of(flow)
    assert episode.failure is None, episode.failure.traceback
    said = [step.output.value.text for step in episode.steps]
    assert said == [f"you said {n}" for n in range(9)]


def test_the_program_s_own_line_is_named_where_a_call_goes_wrong() -> None:
    async def program(client: Any) -> Any:
        found = clients._place()
        assert "test_client.py, line" in found
        return content(await client.chat.completions.create(model="draft", messages=USER))

    assert result_of(program) == "you said hello"


def test_an_error_of_a_node_is_the_flow_s_even_where_the_program_goes_on() -> None:
    async def program(client: Any) -> Any:
        try:
            await client.chat.completions.create(**say("REFUSE"))
        except Exception:
            return "went on"

    with pytest.raises(FlowtuneError, match="this node refuses"):
        play_program(program)


def test_and_so_in_a_thread() -> None:
    def program() -> Any:
        try:
            sync_by_hand.chat.completions.create(**say("REFUSE"))
        except Exception:
            return "went on"

    async def flow(episode: Episode, example: Example) -> Any:
        return await asyncio.to_thread(program)

    with pytest.raises(FlowtuneError, match="this node refuses"):
        episode_of(flow)


class Broken(FakeEngine):
    def answer(self, requests: list[Request]) -> list[Answer]:
        raise MemoryError("the engine is out of memory")


def test_threads_that_wait_are_let_go_when_the_run_ends() -> None:
    ended = threading.Event()

    def program() -> None:
        try:
            sync_by_hand.chat.completions.create(**say("a"))
        finally:
            ended.set()

    async def flow(episode: Episode, example: Example) -> Any:
        await asyncio.to_thread(program)

    with pytest.raises(MemoryError):
        run(Broken(), play(FlowTask([chat("draft")], flow), EXAMPLE))
    assert ended.wait(5)


def test_limits_of_steps_hold() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        while True:
            try:
                await made_by_hand.chat.completions.create(**say("a"))
            except Exception:
                return "caught"

    episode = episode_of(flow, limits=EpisodeLimits(max_steps=3))
    assert episode.failure is not None
    assert "max_steps" in episode.failure.error
    assert len(episode.steps) == 3


def test_the_flow_s_effects_and_calls_go_on_beside_it() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        client = clients.async_client(episode)
        direct = episode.call("draft", messages=USER)
        made = client.chat.completions.create(model="draft", messages=USER)
        one, other = await asyncio.gather(direct, made)
        return one.text, content(other)

    task = FlowTask([chat("draft")], flow)
    episode = run_play(FakeEngine(saying(echo)), task)
    assert episode.result == ("you said hello", "you said hello")
    assert [step.prompt_text for step in episode.steps] == [episode.steps[0].prompt_text] * 2


def test_hundreds_of_episodes_in_flight() -> None:
    at_once = most = 0

    async def flow(episode: Episode, example: Example) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        client = clients.async_client(episode)
        first = content(await client.chat.completions.create(**say(example.id)))
        second = content(await client.chat.completions.create(**say(first, model="check")))
        at_once -= 1
        return second

    task = FlowTask([chat("draft"), chat("check")], flow)
    examples = [Example(f"e{number}", {}, gold=1) for number in range(300)]
    engine = FakeEngine(saying(echo))
    played = run(engine, *[play(task, each) for each in examples], in_flight=256)
    assert most == 256
    said = [f"you said you said {each.id}" for each in examples]
    assert [episode.result for episode in played] == said
    assert len(engine.batches) < 10


def test_a_fault_of_the_gateway_itself_is_the_flow_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(body: Any) -> Any:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("flowtune_cli.gateway.app.json_response", broken)

    async def program(client: Any) -> Any:
        try:
            await client.chat.completions.create(**say("a"))
        except Exception:
            return "went on"

    failure = play_program(program).failure
    assert failure is not None
    assert failure.error == "ZeroDivisionError: here"
