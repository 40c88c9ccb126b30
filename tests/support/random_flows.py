"""Random deterministic flows: programs of calls, loops, branches, rewards, targets and effects."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Judge, Rank
from support.fake_engine import FlowTask, digest, writer

Program = list[tuple[Any, ...]]

NODES = ("plain", "write", "write2", "judge", "rank")

call = st.tuples(st.just("call"), st.sampled_from(NODES))
reward = st.tuples(st.just("reward"), st.sampled_from(["r0", "r1"]), st.booleans())
target = st.tuples(st.just("target"), st.sampled_from(NODES))
effect = st.tuples(st.just("effect"))
simple = st.one_of(call, call, call, reward, target, effect)
block = st.lists(simple, min_size=1, max_size=4)
nested = st.one_of(
    simple,
    st.tuples(st.just("loop"), block),
    st.tuples(st.just("branch"), block, block),
)
inner = st.lists(nested, min_size=1, max_size=3)
compound = st.one_of(
    st.tuples(st.just("loop"), inner), st.tuples(st.just("branch"), inner, inner), nested
)
# Something to decide by in front, and most often a reward behind.
programs = st.builds(
    lambda first, body, last: [first, *body, *last],
    call,
    st.lists(compound, min_size=1, max_size=4),
    st.lists(reward, max_size=3),
)


def random_nodes() -> list[Node]:
    """One of each type, some judged by r0, some by r1, one that does not deviate."""
    shown = Template(user="{x}", system="s")
    return [
        writer("plain", reward="r0", learn="supervised"),
        writer("write", reward="r0"),
        writer("write2", reward="r1", alternatives=2),
        Judge(name="judge", prompt=shown, labels=("a", "b", "c"), reward="r0", alternatives=2),
        Rank(name="rank", prompt=Template(user="{x} {candidate}"), reward="r1"),
    ]


class RandomTask(FlowTask):
    """Interprets a program. What it does next depends on what its nodes have answered."""

    def __init__(self, program: Program, nodes: list[Node] | None = None) -> None:
        super().__init__(random_nodes() if nodes is None else nodes, self._flow)
        self.program = program
        self.tool_runs: list[str] = []

    async def _flow(self, episode: Episode, example: Example) -> Any:
        memory: list[Any] = [example.question]
        await self._execute(self.program, episode, memory)
        return {"memory": memory}

    async def _execute(self, program: Program, episode: Episode, memory: list[Any]) -> None:
        for kind, *arguments in program:
            if kind == "call":
                x = " ".join(map(str, memory[-2:]))
                candidates = [f"c{digest(x, n) % 5}" for n in range(3)]
                memory.append(await episode.call(arguments[0], x=x, candidates=candidates))
            elif kind == "reward":
                name, may_be_undefined = arguments
                value = digest(name, memory) % 3
                undefined = may_be_undefined and digest(memory) % 3 == 0
                episode.reward(name, None if undefined else value / 2)
            elif kind == "target":
                if any(step.node == arguments[0] for step in episode.steps):
                    episode.target(arguments[0], memory[-1])
            elif kind == "effect":
                memory.append(await episode.effect(self._tool, memory[-1]))
            elif kind == "loop":
                for _ in range(1 + digest(memory[-1]) % 3):
                    await self._execute(arguments[0], episode, memory)
            else:
                await self._execute(arguments[digest(memory[-1]) % 2], episode, memory)

    def _tool(self, argument: Any) -> str:
        self.tool_runs.append(argument)
        return f"t{digest(argument) % 5}"
