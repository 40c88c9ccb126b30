"""A scripted engine with marked answers, and a task made of any async function: no model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.deviation import Evaluator, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Exploration, Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.request import GREEDY, Answer, Decoded, DecodeRequest, Request
from flowtune_cli.flow.task import Task
from flowtune_cli.nodes import Generate
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.effects import Effects
from flowtune_cli.runtime.play import play
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.runtime.scheduler import Scheduler
from flowtune_cli.testing import ScriptedEngine
from flowtune_cli.testing.engine import digest

T = TypeVar("T")
Flow = Callable[[Episode, Example], Coroutine[Any, Any, Any]]


def write_number(prompt: str, output: int) -> str:
    """The output'th text after a prompt: small numbers, so that paths meet and repeat."""
    return str(digest(prompt, output) % 7)


def write_letters(prompt: str, output: int) -> str:
    """Greedy is A, the alternatives B, C, ...: what a node was shown does not matter."""
    return chr(ord("A") + output)


def likelihood(prompt: str, completion: str) -> float:
    """A log-likelihood for a completion after a prompt."""
    return -(digest(prompt, completion) % 1000) / 100


class FakeEngine(ScriptedEngine):
    """A scripted engine whose script looks at no node, and whose answers tell what was asked.

    Args:
        write: (prompt text, number of the output) -> text; output 0 is the greedy one.
        score: (prompt text, completion) -> log-likelihood of the whole completion.
        head: the learned head that every answer of an adapter reports.
        fail_at: raise in place of answering the batch of this number.
    """

    def __init__(
        self,
        write: Callable[[str, int], str] = write_number,
        score: Callable[[str, str], float] = likelihood,
        head: Mapping[str, float] | None = None,
        fail_at: int | None = None,
    ) -> None:
        super().__init__(
            lambda node, prompt, output: write(prompt, output),
            lambda node, prompt, completion: score(prompt, completion),
        )
        self.every_head = head or {}
        self.fail_at = fail_at

    @property
    def exploring(self) -> list[Request]:
        return [r for r in self.requests if isinstance(r, DecodeRequest) and r.decoding != GREEDY]

    def answer(self, requests: list[Request]) -> list[Answer]:
        if self.fail_at == len(self.batches):
            raise MemoryError("the engine is out of memory")
        answers = super().answer(requests)
        return [self._marked(*pair) for pair in zip(requests, answers, strict=True)]

    def _marked(self, request: Request, answer: Answer) -> Answer:
        if isinstance(answer, Decoded):
            return replace(
                answer,
                prompt=f"<{answer.prompt}>",
                prompt_tokens=len(answer.prompt),
                dropped_tokens=3,
                adapter_version=5,
            )
        return replace(
            answer,
            prompts=tuple(f"<{prompt}>" for prompt in answer.prompts),
            prompt_tokens=17,
            dropped_tokens=2,
            adapter_version=7,
            head=self.every_head if request.adapter is not None else {},
        )


class FlowTask(Task):
    """A task whose flow is the function that it is given."""

    name = "flow"
    nodes: Any = ()

    def __init__(self, nodes: Sequence[Node], flow: Flow) -> None:
        super().__init__(nodes=nodes)
        self.flow = flow

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        raise NotImplementedError

    async def run(self, episode: Episode, example: Example) -> Any:
        return await self.flow(episode, example)


def writer(name: str, reward: str | None = "reward", **more: Any) -> Generate:
    """A Generate node that shows the input ``x``, preceded by the node's name."""
    return Generate(
        name=name, prompt=Template(user=name + ":{x}", chat=False), reward=reward, **more
    )


EXAMPLE = Example("example-1", {"question": "why"}, gold="because")


def run(engine: FakeEngine, *coroutines: Coroutine[Any, Any, T], **more: Any) -> list[T]:
    """The results of coroutines whose requests the engine answers."""
    return Scheduler(engine, **more).run(list(coroutines))


def run_play(
    engine: FakeEngine,
    task: Task,
    plan: Plan | None = None,
    effects: Effects | None = None,
    example: Example = EXAMPLE,
) -> Episode:
    """One episode of a task."""
    return run(engine, play(task, example, plan=plan, effects=effects))[0]


def explored(task: Task) -> dict[str, Exploration]:
    """Diverse beam search for each node of a task that deviates."""
    return {node.name: DiverseBeam() for node in task.nodes if node.deviates}


def run_deviate(
    engine: FakeEngine,
    task: Task,
    evaluators: Mapping[str, Evaluator] | None = None,
    example: Example = EXAMPLE,
    **more: Any,
) -> Trace:
    """An example with its deviations."""
    coroutine = deviate(task, example, explorations=explored(task), evaluators=evaluators or {})
    return run(engine, coroutine, **more)[0]


def values(rewards: dict[str, float | None]) -> Any:
    """A flow of one call, whose reward is looked up by what the node wrote."""

    async def flow(episode: Episode, example: Example) -> None:
        episode.reward("reward", rewards[await episode.call("a", x=1)])

    return flow


def deviations_of(rewards: dict[str, float | None], **more: Any) -> Trace:
    task = FlowTask([writer("a", alternatives=len(rewards) - 1, **more)], values(rewards))
    return run_deviate(FakeEngine(write_letters), task)


def two_stages(log: list[str]) -> Any:
    async def flow(episode: Episode, example: Example) -> str:
        try:
            found = await episode.call("a", x="question")
            episode.reward("found", float(found == "B"))
            answer = await episode.call("b", x=found)
            episode.reward("answered", float(answer == "B"))
            return await episode.call("c", x=answer)
        finally:
            log.append("closed")

    return flow
