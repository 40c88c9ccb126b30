"""What the gateway costs a call, beside ``episode.call``, with an engine that answers at once.

    python -m benchmarks.gateway

A flow makes rounds of 64 requests at once: by its own calls, on the ``openai`` client in process,
and over HTTP from a program in a process of its own. What is reported is a round's time divided by
64, and the calls' own is taken off: that is what each call costs one processor. Latency is that of
a single call at a time. In the end, 256 episodes in flight make calls in process.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from flowtune_cli.flow.chat import ChatAnswer
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Call, Datum, Node, NodeOutput, Response
from flowtune_cli.flow.task import Task
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.client import async_client
from flowtune_cli.gateway.server import Server
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.scheduler import Scheduler
from flowtune_cli.testing import ScriptedEngine

AT_ONCE = 64
ROUNDS = 30
EPISODES = 256
CALLS = 10

Ask = Callable[[str], Awaitable[Any]]

PROGRAM = """
import asyncio, json, sys, time
import openai

async def main(url, key, at_once, rounds):
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        async def ask(text):
            start = time.perf_counter()
            messages = [{"role": "user", "content": text}]
            await client.chat.completions.create(model="node", messages=messages)
            return time.perf_counter() - start
        found = []
        for number in range(rounds):
            start = time.perf_counter()
            await asyncio.gather(*[ask(f"{number} {n}") for n in range(at_once)])
            found.append((time.perf_counter() - start) / at_once)
        print(json.dumps(found[2:]))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


@dataclass(kw_only=True)
class Instant(Node):
    """Answers by itself, so that nothing but the way to it is measured."""

    kind: ClassVar[str] = "chat"

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return str(inputs["messages"])

    async def respond(self, call: Call) -> Response:
        answer = ChatAnswer("an answer of some words", prompt_tokens=7, completion_tokens=5)
        return Response("", (NodeOutput(answer, answer.text),))

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        raise NotImplementedError


class _Measured(Task):
    name = "measured"
    nodes: Any = (Instant(name="node", learn="nothing"),)

    def __init__(self, flow: Callable[[Episode], Awaitable[Any]]) -> None:
        super().__init__()
        self.flow = flow

    def examples(self, source: Any, split: str) -> Any:
        raise NotImplementedError

    async def run(self, episode: Episode, example: Example) -> Any:
        return await self.flow(episode)


def result(flow: Callable[[Episode], Awaitable[Any]], episodes: int = 1) -> list[Any]:
    """What episodes of a flow return, played at once."""
    task = _Measured(flow)
    coroutines = [play(task, Example(str(n), {}, gold=None)) for n in range(episodes)]
    played = Scheduler(ScriptedEngine(), in_flight=episodes).run(coroutines)
    for episode in played:
        if episode.failure is not None:
            raise RuntimeError(episode.failure.traceback)
    return [episode.result for episode in played]


def direct(episode: Episode) -> Ask:
    """Ask by the flow's own call."""
    return lambda text: episode.call("node", messages=[{"role": "user", "content": text}])


def in_process(episode: Episode) -> Ask:
    """Ask on the client."""
    client = async_client(episode)
    return lambda text: client.chat.completions.create(
        model="node", messages=[{"role": "user", "content": text}]
    )


def rounds(way: Callable[[Episode], Ask], at_once: int = AT_ONCE) -> list[float]:
    """Seconds a call, of each round."""

    async def flow(episode: Episode) -> list[float]:
        ask = way(episode)
        found = []
        for number in range(ROUNDS):
            start = time.perf_counter()
            await asyncio.gather(*[ask(f"{number} {n}") for n in range(at_once)])
            found.append((time.perf_counter() - start) / at_once)
        return found[2:]  # without what is imported and set up first

    return cast("list[float]", result(flow)[0])


def over_http(at_once: int = AT_ONCE) -> list[float]:
    """The same of a program in a process of its own."""
    with Server(Gateway()) as server:

        async def flow(episode: Episode) -> Any:
            with server.admitted(episode) as address:
                arguments = [address.base_url, address.api_key, str(at_once), str(ROUNDS)]
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
                )
                out, _ = await process.communicate()
            return [float(each) for each in out.decode().strip("[]\n").split(",")]

        return cast("list[float]", result(flow)[0])


def many_episodes() -> float:
    """Seconds in which all episodes in flight make their calls."""

    async def flow(episode: Episode) -> None:
        ask = in_process(episode)
        for number in range(CALLS):
            await ask(str(number))

    start = time.perf_counter()
    result(flow, EPISODES)
    return time.perf_counter() - start


def row(name: str, found: list[float], below: float = 0.0) -> str:
    """A line of the table, in milliseconds."""
    percentiles = statistics.quantiles(found, n=10)
    p50, p90 = ((each - below) * 1e3 for each in (percentiles[4], percentiles[8]))
    return f"{name:44} {p50:8.2f} {p90:8.2f}"


def main() -> None:
    """Measure and print."""
    print(f"{'milliseconds a call':44} {'p50':>8} {'p90':>8}")
    plain = rounds(direct)
    base = statistics.median(plain)
    print(row(f"episode.call, {AT_ONCE} at once", plain))
    print(row(f"in process, {AT_ONCE} at once, more than that", rounds(in_process), base))
    print(row(f"over HTTP, {AT_ONCE} at once, more than that", over_http(), base))
    print(row("in process, one at a time", rounds(in_process, 1)))
    print(row("over HTTP, one at a time", over_http(1)))
    seconds = many_episodes()
    calls = EPISODES * CALLS
    print(f"{EPISODES} episodes in flight: {calls} calls in {seconds:.2f} s")


if __name__ == "__main__":
    main()
