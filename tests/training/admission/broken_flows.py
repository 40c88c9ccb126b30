"""Flows that are broken in one way each, and the helpers that play them."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.testing import ScriptedEngine, deviate
from flowtune_cli.training.admission.examine import examine
from flowtune_cli.training.admission.finding import Finding
from support.fake_engine import Flow, FlowTask, writer

EXAMPLES = [Example(f"e{n}", {"question": f"question {n}"}, gold=f"gold {n}") for n in range(3)]

_calls = itertools.count()


def letters(node: str, prompt: str, output: int) -> str:
    """Greedy is A, the alternatives B, C, ..."""
    return chr(ord("A") + output)


def findings(
    flow: Flow,
    nodes: Sequence[Node] | None = None,
    *,
    write: Callable[[str, str, int], str | None] = letters,
    gate: str | None = None,
    engine: ScriptedEngine | None = None,
    examples: Sequence[Example] = EXAMPLES,
) -> list[Finding]:
    """What is found where a flow plays the examples."""
    task = FlowTask([writer("a")] if nodes is None else nodes, flow)
    task.gate = gate  # type: ignore[misc]
    engine = engine or ScriptedEngine(write)
    traces = [deviate(task, engine, example) for example in examples]
    return examine(task, traces, examples, limits=NO_LIMITS)


def judged(text: str) -> float:
    return float(text == "A")


def showing(shown: Callable[[Example], Any], node: str = "a") -> Flow:
    """Shows its node something, and rewards what it says."""

    async def flow(episode: Episode, example: Example) -> Any:
        text = await episode.call(node, x=shown(example))
        episode.reward("reward", judged(text))
        return {"text": text}

    return flow


healthy = showing(lambda example: example.question)
a_clock = showing(lambda example: f"It is {time.time_ns()} now.")
a_uuid = showing(lambda example: uuid.uuid4())
a_counter = showing(lambda example: f"call {next(_calls)}")
gold_shown = showing(lambda example: f"{example.question} {example.gold}")


async def changing_tool(episode: Episode, example: Example) -> Any:
    """The tool's answer is recorded nowhere, and is another one each time."""
    found = next(_calls)
    text = await episode.call("a", x=example.question)
    second = await episode.call("a", x=f"{text} {found}")
    episode.reward("reward", judged(second))


async def other_effect(episode: Episode, example: Example) -> None:
    found = await episode.effect(str, next(_calls))
    episode.reward("reward", judged(await episode.call("a", x="" if found else found)))


async def noisy_reward(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)
    episode.reward("reward", float(next(_calls)))


async def never_calls_b(episode: Episode, example: Example) -> None:
    text = await episode.call("a", x=example.question)
    if text == "never":
        await episode.call("b", x=text)
    episode.reward("reward", judged(text))


async def misspelt(episode: Episode, example: Example) -> None:
    episode.reward("qualty", judged(await episode.call("a", x=1)))


async def silent(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)


async def ties(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)
    episode.reward("reward", 1.0)


async def forgotten(episode: Episode, example: Example) -> None:
    text = episode.call("a", x=1)
    episode.reward("reward", 1.0)
    await episode.call("a", x=f"{text}")


async def never_awaited(episode: Episode, example: Example) -> None:
    episode.call("a", x=1)
    episode.reward("reward", judged(await episode.call("a", x=2)))


async def coroutine_shown(episode: Episode, example: Example) -> None:
    async def search() -> str:
        return "found"

    await episode.call("a", x=search())


async def messages_shown(episode: Episode, example: Example) -> None:
    await episode.call("a", x=[{"role": "user", "content": example.question}])


async def failing(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)
    raise KeyError("nothing there")
