"""A node that an OpenAI-compatible endpoint plays: asked once, journaled, replayed, counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flowtune_cli.flow.effect import EffectEnd, error_from_json, error_to_json
from flowtune_cli.flow.endpoint import Spent
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.gateway.passed_through import UpstreamError
from flowtune_cli.nodes import Chat, Generate
from flowtune_cli.runtime import effects as running
from flowtune_cli.runtime.effects import Effects
from flowtune_cli.runtime.play import play, recording_of
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.training.other_models import play_elsewhere, spent_elsewhere
from support.chat_flows import USER
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    run,
    run_deviate,
    run_play,
    write_letters,
    writer,
)
from support.upstream import COMPLETION, Upstream, serving


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.setenv("BIG_KEY", "top-secret")
    monkeypatch.setattr(running, "FIRST_PAUSE_SECONDS", 0.01)
    with serving() as made:
        yield made


def endpoint(upstream: Upstream, **more: Any) -> dict[str, Any]:
    return {"url": upstream.url, "name": "big", "key": "BIG_KEY", **more}


def far(upstream: Upstream, **more: Any) -> Node:
    """A Generate node that the endpoint plays."""
    prompt = Template(system="Be brief.", user="{x}")
    node = Generate(
        name="far", prompt=prompt, learn="nothing", model=endpoint(upstream, **more), stop=("##",)
    )
    play_elsewhere([node])
    return node


async def ask_far(episode: Episode, example: Example) -> Any:
    return await episode.call("far", x="why?")


def test_a_generate_node_is_asked_as_a_chat(upstream: Upstream) -> None:
    node = far(upstream, price={"input": 2.0, "output": 10.0}, options={"top_k": 3})
    episode = run_play(FakeEngine(), FlowTask([node], ask_far))
    assert episode.result == "from afar"
    ((path, headers, body),) = upstream.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer top-secret"
    assert body == {
        "model": "big",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "why?"},
        ],
        "max_tokens": 50,
        "temperature": 0.0,
        "stop": ["##"],
        "top_k": 3,
    }
    # Tokens and cost: in the step, in the effect, and in all.
    [step] = episode.steps
    assert (step.response.prompt_tokens, step.output.tokens, step.output.logprob) == (5, 2, None)
    [effect] = episode.effects
    assert effect.name == "node far"
    assert effect.steps == step.index
    kept = json.loads(effect.result or "")
    assert (kept["input_tokens"], kept["output_tokens"], kept["cost"]) == (5, 2, 3e-05)
    [line] = spent_elsewhere([node])
    assert line == "node 'far' asked big: 1 requests, 5 input and 2 output tokens, cost 3e-05"
    # The key is nowhere.
    assert "top-secret" not in repr((episode.effects, episode.steps, node, node.elsewhere))


def test_a_chat_node_passes_on_tools_sampling_and_formats(upstream: Upstream) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    choice = {"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    upstream.answers = lambda path: (200, {**COMPLETION, "choices": [choice]})
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    node = Chat(name="far", learn="nothing", model=endpoint(upstream))
    play_elsewhere([node])

    async def flow(episode: Episode, example: Example) -> Any:
        asked = {"messages": USER, "tools": [tool], "tool_choice": "required"}
        return await episode.call("far", temperature=0.5, top_p=0.9, max_tokens=7, **asked)

    episode = run_play(FakeEngine(), FlowTask([node], flow))
    [written] = episode.result.tool_calls
    assert (written.name, written.arguments, len(written.id)) == ("look", "{}", 9)
    assert episode.result.finish_reason == "tool_calls"
    assert (episode.result.prompt_tokens, episode.result.completion_tokens) == (5, 2)
    ((_, _, body),) = upstream.asked
    assert body["tools"] == [tool]
    assert body["tool_choice"] == "required"
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 7)
    assert type(body["seed"]) is int


def test_rollouts_and_resumed_runs_are_given_what_was_said(upstream: Upstream) -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        draft = await episode.call("draft", x="question")
        same = await episode.call("far", x="the same")
        await episode.call("far", x=f"of {draft}")
        episode.reward("reward", float(draft == "B"))
        return same

    node = far(upstream)
    task = FlowTask([writer("draft"), node], flow)
    trace = run_deviate(FakeEngine(write_letters), task)
    [deviation] = trace.deviations
    assert deviation.gain == 1.0
    said = [body["messages"][1]["content"] for _, _, body in upstream.asked]
    assert said == ["the same", "of A", "of B"]
    assert deviation.rollout is not None
    assert [effect.again for effect in deviation.rollout.effects] == [False]
    known = Effects(dict(trace.episode.runner.effects.ends))  # type: ignore[union-attr]
    again = run(FakeEngine(write_letters), play(task, EXAMPLE, effects=known))[0]
    assert again.result == trace.episode.result == "from afar"
    plan = Plan(recording=recording_of(trace.episode))
    run(FakeEngine(write_letters), play(task, EXAMPLE, plan=plan, effects=known))
    assert len(upstream.asked) == 3
    assert node.elsewhere is not None
    assert node.elsewhere.spent == Spent(3, 15, 6)


def test_what_was_remembered_is_delivered_as_when_it_came(upstream: Upstream) -> None:
    """Two tasks side by side: an answer from memory must not come before the other call."""

    async def flow(episode: Episode, example: Example) -> Any:
        async def after_a_while() -> Any:
            for _ in range(3):
                await asyncio.sleep(0)
            return await episode.call("near", x="b")

        return await asyncio.gather(episode.call("far", x="a"), after_a_while())

    task = FlowTask([far(upstream), writer("near")], flow)
    first = run_play(FakeEngine(), task)
    known = Effects(dict(first.runner.effects.ends))  # type: ignore[union-attr]
    second = run_play(FakeEngine(), task, effects=known)
    assert len(upstream.asked) == 1
    assert [step.concurrent for step in first.steps] == [True, True]
    assert second.steps == first.steps


def test_what_passes_is_tried_again_and_what_does_not_is_not(upstream: Upstream) -> None:
    upstream.answers = lambda path: (503 if len(upstream.asked) < 3 else 200, COMPLETION)
    task = FlowTask([far(upstream, retries=2)], ask_far)
    assert run_play(FakeEngine(), task).result == "from afar"
    assert len(upstream.asked) == 3
    upstream.asked.clear()
    upstream.answers = lambda path: (401, {"error": {"message": "no such key: top-secret"}})
    failed = run_play(FakeEngine(), FlowTask([far(upstream)], ask_far))
    assert len(upstream.asked) == 1
    assert failed.failure is not None
    assert "answered 401" in failed.failure.error
    assert "top-secret" not in failed.failure.traceback + repr(failed.effects)
    upstream.asked.clear()
    upstream.answers = lambda path: (429, {"error": "later"})
    failed = run_play(FakeEngine(), FlowTask([far(upstream, retries=1)], ask_far))
    assert len(upstream.asked) == 2
    assert failed.failure is not None
    assert failed.failure.error.startswith("UpstreamError: the other server: 429")
    [end] = failed.runner.effects.ends.values()  # type: ignore[union-attr]
    kept = error_to_json(end.error)  # type: ignore[arg-type]
    assert kept is not None
    assert isinstance(error_from_json(kept), UpstreamError)


@pytest.mark.parametrize("answer", [b"<html>", {}, {"choices": []}, {"choices": [{}]}, [1]])
def test_an_answer_that_is_none_is_told(upstream: Upstream, answer: Any) -> None:
    upstream.answers = lambda path: (200, answer)
    failed = run_play(FakeEngine(), FlowTask([far(upstream)], ask_far))
    assert failed.failure is not None
    assert "what is no chat completion" in failed.failure.error


def test_a_slow_one_is_told(upstream: Upstream) -> None:
    node = far(upstream, timeout=0.05, retries=0)
    node.model["url"] = "http://10.255.255.1/v1"  # type: ignore[index]
    play_elsewhere([node])
    failed = run_play(FakeEngine(), FlowTask([node], ask_far))
    assert failed.failure is not None
    assert "10.255.255.1/v1/chat/completions" in failed.failure.error


def test_a_key_that_is_not_set_is_told_before_anything_is_asked(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BIG_KEY")
    with pytest.raises(UsageError, match="node 'far': the environment variable BIG_KEY is not set"):
        far(upstream)


def test_without_a_key_nothing_is_sent(upstream: Upstream) -> None:
    run_play(FakeEngine(), FlowTask([far(upstream, key=None)], ask_far))
    assert "authorization" not in upstream.asked[0][1]


def test_an_end_is_kept_as_that_of_an_effect(upstream: Upstream) -> None:
    kept: list[EffectEnd] = []

    class Journal:
        def end(self, key: Any, end: EffectEnd) -> None:
            assert key[:2] == ("elsewhere", "far")
            kept.append(end)

        def deliver(self, run: Any, keys: Any) -> None:
            raise AssertionError("a flow that awaits nodes alone has no order to keep")

    effects = Effects(journal=Journal())
    run_play(FakeEngine(), FlowTask([far(upstream)], ask_far), effects=effects)
    [end] = kept
    assert json.loads(end.result or "")["text"] == "from afar"
