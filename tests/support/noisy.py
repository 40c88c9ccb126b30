"""Flows that sample, played with a script: what is drawn depends on the call's seed."""

from __future__ import annotations

from typing import Any

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.request import Decoded, DecodeRequest
from flowtune_cli.nodes import Chat
from flowtune_cli.runtime.deviation import deviate
from support.fake_engine import EXAMPLE, FakeEngine, FlowTask, digest, explored, run


class NoisyEngine(FakeEngine):
    """Writes small numbers that depend on the seed, too, where a request samples."""

    def _decode(self, request: DecodeRequest) -> Decoded:
        plain = self.write
        if not request.decoding.greedy:
            self.write = lambda node, prompt, output: drawn(prompt, request.seed, output)
        try:
            return super()._decode(request)
        finally:
            self.write = plain

    @property
    def seeds(self) -> list[tuple[Any, ...]]:
        """Of the requests that sample."""
        asked = [r for r in self.requests if isinstance(r, DecodeRequest)]
        return [r.seed for r in asked if not r.decoding.greedy]


def drawn(prompt: str, seed: tuple[Any, ...], output: int = 0) -> str:
    return str(digest(prompt, seed, output) % 7)


def draw(reward: str | None = None, **more: Any) -> Chat:
    return Chat(name="draw", temperature=1.0, reward=reward, **more)


async def say(episode: Episode, node: str, x: str) -> str:
    """What a node of either kind writes."""
    if node.startswith("draw"):
        answer = await episode.call(node, messages=[{"role": "user", "content": x}])
        return str(answer.text)
    return str(await episode.call(node, x=x))


def tried(engine: FakeEngine, task: FlowTask, rollouts: int, **more: Any) -> Trace:
    more = {"evaluators": {}, **more}
    coroutine = deviate(task, EXAMPLE, explorations=explored(task), rollouts=rollouts, **more)
    return run(engine, coroutine)[0]


def judged_last(*nodes: str) -> Any:
    async def flow(episode: Episode, example: Example) -> None:
        said = ["begin"]
        for node in nodes:
            said.append(await say(episode, node, " ".join(said[-2:])))
        episode.reward("reward", digest(said) % 5)

    return flow
