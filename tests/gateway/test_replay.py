"""Replay and deviations: through the gateway they are what they are through ``episode.call``."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import openai
import pytest
from hypothesis import assume, given, settings

from flowtune_cli.flow.deviation import Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import ReplayError
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.client import async_client, client
from flowtune_cli.runtime.play import recording_of
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.runtime.second_play import Recorded, play_again
from support.concurrent_flows import Program, programs
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    digest,
    run_deviate,
    run_play,
    write_number,
)
from support.scripted_chat import chat, saying

few = settings(max_examples=40, deadline=None)
NODES = {"plain": "plain", "write": "write", "write2": "write2", "judge": "plain", "rank": "write"}


def _at_once(create: Any, **asked: Any) -> Any:
    return create(**asked)


def _late(create: Any, **asked: Any) -> Any:
    time.sleep(random.choice([0.0, 0.0, 0.002, 0.03]))
    got = create(**asked)
    time.sleep(random.choice([0.0, 0.0, 0.002, 0.03]))
    return got


class ChatTask(FlowTask):
    """Interprets a program of calls, in one way or another.

    Args:
        way: "direct" (``episode.call``), "client", "threads", or "late threads", which by chance
            ask later.
    """

    def __init__(self, program: Program, way: str, temperature: float = 0.0) -> None:
        nodes = [
            chat("plain", reward="r0"),
            chat("write", reward="r0"),
            chat("write2", reward="r1", alternatives=2),
        ]
        super().__init__(nodes, self._flow)
        self.program = program
        self.way = way
        self.temperature = temperature

    async def _flow(self, episode: Episode, example: Example) -> Any:
        log: list[str] = []
        result = await self._execute(self.program, episode, str(example.question), log)
        for name in ("r0", "r1"):
            episode.reward(name, digest(name, result) % 3 / 2)
        return {"result": result, "log": log}

    async def _ask(self, episode: Episode, node: str, text: str) -> str:
        asked: Any = {
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
        }
        if self.way == "direct":
            return str((await episode.call(node, **asked)).text)
        create: Any
        if self.way == "client":
            create = async_client(episode).chat.completions.create
            got = await create(model=node, **asked)
        else:
            create = client(episode).chat.completions.create
            late = self.way == "late threads"
            got = await asyncio.to_thread(_late if late else _at_once, create, model=node, **asked)
        return str(got.choices[0].message.content)

    async def _execute(self, program: Program, episode: Episode, x: str, log: list[str]) -> str:
        kind, *rest = program
        if kind == "call":
            got = await self._ask(episode, NODES[rest[0]], x)
            log.append(f"{rest[0]}{got}")
            return got
        if kind == "sequence":
            for each in rest[0]:
                x = await self._execute(each, episode, x, log)
            return x
        if kind == "branch":
            return await self._execute(rest[digest(x) % 2], episode, x + "b", log)
        if kind == "retry":
            for attempt in range(3):
                got = await self._execute(rest[0], episode, f"{x}t{attempt}", log)
                if digest(got) % 2:
                    break
            return got
        inner = [self._execute(e, episode, f"{x}.{n}", log) for n, e in enumerate(rest[0])]
        if kind == "gather":
            return " ".join(await asyncio.gather(*inner))
        got = ""
        for each in asyncio.as_completed([asyncio.create_task(e) for e in inner]):
            got += await each
        return got


def engine() -> FakeEngine:
    return FakeEngine(saying(write_number))


def facts(episode: Episode) -> Any:
    steps = [(s.index, s.node, s.prompt_text, s.output, s.concurrent) for s in episode.steps]
    return episode.failure, steps, episode.rewards, episode.result


def trace_facts(trace: Trace) -> Any:
    tried = [
        (d.step, d.alternative, d.outcome, d.gain, d.rollout and facts(d.rollout))
        for d in trace.deviations
    ]
    return facts(trace.episode), tried, trace.preferences


@few
@given(programs)
def test_a_program_on_the_client_is_the_flow_that_calls_its_nodes(program: Program) -> None:
    direct = run_deviate(engine(), ChatTask(program, "direct", 1.0))
    through = run_deviate(engine(), ChatTask(program, "client", 1.0))
    assert direct.episode.failure is None
    assert trace_facts(through) == trace_facts(direct)


@few
@given(programs)
def test_a_healthy_program_replays_and_asks_for_nothing(program: Program) -> None:
    whole = run_play(engine(), ChatTask(program, "client", 1.0))
    asked = engine()
    plan = Plan(recording=recording_of(whole))
    again = run_play(asked, ChatTask(program, "client", 1.0), plan)
    assert facts(again) == facts(whole)
    assert asked.requests == []


@settings(max_examples=8, deadline=None)
@given(programs)
def test_a_program_in_threads_replays(program: Program) -> None:
    # Which of two threads goes on first is nobody's to say.
    assume("as completed" not in repr(program))
    whole = run_play(engine(), ChatTask(program, "threads"))
    assert whole.failure is None
    asked = engine()
    plan = Plan(recording=recording_of(whole))
    again = run_play(asked, ChatTask(program, "threads"), plan)
    assert again.failure is None
    assert again.result["result"] == whole.result["result"]
    assert asked.requests == []


def learned(trace: Trace) -> Any:
    """What deviations gave, whatever the order of the steps."""
    asked = [step.prompt_text for step in trace.episode.steps]
    tried = [(asked[d.step], d.alternative, d.outcome, d.gain) for d in trace.deviations]
    preferred = [(asked[p.step], p.chosen.text, p.rejected.text) for p in trace.preferences]
    return sorted(asked), sorted(tried, key=repr), sorted(preferred, key=repr)


@settings(max_examples=20, deadline=None)
@given(programs.filter(lambda program: "gather" in repr(program)))
def test_when_threads_ask_changes_nothing_that_is_learned(program: Program) -> None:
    """Calls that depend on nothing come side by side, or one after the other, by chance."""
    assume("as completed" not in repr(program))
    direct = run_deviate(engine(), ChatTask(program, "direct"))
    late = run_deviate(engine(), ChatTask(program, "late threads"))
    assert late.failures == []
    assert late.episode.result["result"] == direct.episode.result["result"]
    assert learned(late) == learned(direct)


def say(text: str) -> Any:
    return {"model": "a", "messages": [{"role": "user", "content": text}]}


def test_a_request_that_differs_fails_the_replay_though_the_program_goes_on() -> None:
    said: list[str] = ["first"]

    async def flow(episode: Episode, example: Example) -> Any:
        try:
            await async_client(episode).chat.completions.create(**say(said[-1]))
        except Exception:
            return "went on"

    task = FlowTask([chat("a")], flow)
    whole = run_play(engine(), task)
    said.append("second")
    again = run_play(engine(), task, Plan(recording=recording_of(whole)))
    assert again.failure is not None
    assert again.failure.error.startswith("ReplayError: the flow did not replay")
    assert '"first"' in again.failure.error
    assert '"second"' in again.failure.error


def test_so_does_a_request_in_a_thread() -> None:
    said: list[str] = ["first"]

    def program(episode: Episode) -> None:
        with pytest.raises(asyncio.CancelledError):
            client(episode).chat.completions.create(**say(said[-1]))

    async def flow(episode: Episode, example: Example) -> Any:
        if said[-1] == "first":
            return await async_client(episode).chat.completions.create(**say("first"))
        return await asyncio.to_thread(program, episode)

    task = FlowTask([chat("a")], flow)
    whole = run_play(engine(), task)
    said.append("second")
    again = run_play(engine(), task, Plan(recording=recording_of(whole)))
    assert again.failure is not None
    assert ReplayError.__name__ in again.failure.error


def test_a_rollout_that_is_decided_ends_at_the_program_s_next_request() -> None:
    log: list[str] = []

    async def flow(episode: Episode, example: Example) -> Any:
        of_episode = async_client(episode).chat.completions
        got = await of_episode.create(**say("x"))
        episode.reward("reward", float(got.choices[0].message.content == "B"))
        try:
            await of_episode.create(**say("y"))
        except Exception:
            log.append("caught")
        log.append("after")

    task = FlowTask([chat("a")], flow)
    trace = run_deviate(FakeEngine(saying(lambda text, n: chr(65 + n))), task)
    first = next(d for d in trace.deviations if d.step == 0)
    assert first.outcome is Outcome.ALTERNATIVE_BETTER
    assert first.rollout is not None
    assert first.rollout.stopped_early
    assert first.rollout.failure is None
    # The episode itself; the other deviation has its reward before it.
    assert "caught" not in log


def test_ids_in_later_requests_are_those_of_the_episode() -> None:
    """A rollout that meets the episode's requests again is answered from memory."""

    async def flow(episode: Episode, example: Example) -> Any:
        of_episode = async_client(episode).chat.completions
        got = await of_episode.create(**say("x"))
        called = await of_episode.create(**say("call"))
        message = called.choices[0].message.model_dump(exclude_none=True)
        result = {
            "role": "tool",
            "tool_call_id": message["tool_calls"][0]["id"],
            "content": called.id + str(called.created),
        }
        messages: Any = [*say("call")["messages"], message, result]
        await of_episode.create(model="a", messages=messages)
        episode.reward("reward", float(got.choices[0].message.content == "B"))

    def script(text: str, output: int) -> str:
        return "CALL f {}" if text == "call" and not output else chr(65 + output)

    trace = run_deviate(FakeEngine(saying(script)), FlowTask([chat("a")], flow))
    assert trace.episode.failure is None, trace.episode.failure.traceback
    first = next(d for d in trace.deviations if d.step == 0)
    assert first.rollout is not None
    assert [step.recorded for step in first.rollout.steps] == [False, True, True]


def test_an_alternative_may_be_tool_calls() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        got = await async_client(episode).chat.completions.create(**say("x"))
        calls = got.choices[0].message.tool_calls or []
        episode.reward("reward", float(len(calls)))
        return got.choices[0].finish_reason

    def script(text: str, output: int) -> str:
        return "CALL f {}" if output else "no"

    trace = run_deviate(FakeEngine(saying(script)), FlowTask([chat("a")], flow))
    (deviation,) = trace.deviations
    assert deviation.outcome is Outcome.ALTERNATIVE_BETTER
    assert trace.episode.result == "stop"


def test_a_call_that_the_program_cancels_is_cancelled_in_the_replay_too() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        of_episode = async_client(episode).chat.completions
        task = asyncio.create_task(of_episode.create(**say("x")))
        await asyncio.sleep(0)
        task.cancel()
        got = await of_episode.create(**say("y"))
        return got.choices[0].message.content

    task = FlowTask([chat("a")], flow)
    whole = run_play(engine(), task, example=EXAMPLE)
    assert whole.failure is None
    assert len(whole.steps) == 1
    again = run_play(engine(), task, Plan(recording=recording_of(whole)))
    assert facts(again) == facts(whole)


def test_the_admission_check_names_the_program_s_line() -> None:
    said: list[str] = ["first"]

    async def flow(episode: Episode, example: Example) -> Any:
        got = await async_client(episode).chat.completions.create(**say(said[-1]))
        return got.id

    task = FlowTask([chat("a")], flow)
    recorded = Recorded.of(run_play(engine(), task))
    assert play_again(task, [recorded]) == [[]]
    said.append("second")
    ((difference,),) = play_again(task, [recorded]) or ()  # type: ignore[misc]
    assert difference.what == "a"
    assert '"first"' in str(difference.before)
    assert '"second"' in str(difference.now)
    assert f"{__file__}, line " in str(difference.place)


def test_what_the_client_may_retry_is_one_call() -> None:
    """In process nothing is dropped; an error that is final is not asked for twice."""

    async def flow(episode: Episode, example: Example) -> Any:
        with_retries = async_client(episode).with_options(max_retries=3)
        with pytest.raises(openai.NotFoundError):
            await with_retries.chat.completions.create(model="b", messages=say("x")["messages"])
        await with_retries.chat.completions.create(**say("x"))

    assert len(run_play(engine(), FlowTask([chat("a")], flow)).steps) == 1


def test_a_program_that_waits_for_what_is_held_back_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two calls side by side, and in the replay one after the other, in threads."""
    monkeypatch.setattr("flowtune_cli.runtime.delivery.PATIENCE_SECONDS", 0.2)
    side_by_side = [True]

    async def flow(episode: Episode, example: Example) -> Any:
        create: Any = client(episode).chat.completions.create
        calls = [asyncio.to_thread(create, **say(text)) for text in "ab"]
        if side_by_side[0]:
            made = await asyncio.gather(*calls)
        else:
            made = [await call for call in calls]
        return [each.choices[0].message.content for each in made]

    task = FlowTask([chat("a")], flow)
    whole = run_play(engine(), task)
    assert len(recording_of(whole).deliveries) == 1
    side_by_side[0] = False
    again = run_play(engine(), task, Plan(recording=recording_of(whole)))
    assert (again.failure, again.result) == (None, whole.result)
