"""Random flows whose calls run side by side: gathered, raced, nested, tried again."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from support.fake_engine import FlowTask, digest
from support.random_flows import NODES, random_nodes

Program = tuple[Any, ...]

call = st.tuples(st.just("call"), st.sampled_from(NODES))
programs: st.SearchStrategy[Program] = st.recursive(
    call,
    lambda inner: st.one_of(
        st.tuples(st.just("sequence"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("gather"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("as completed"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("branch"), inner, inner),
        st.tuples(st.just("retry"), inner),
    ),
    max_leaves=10,
)


class ConcurrentTask(FlowTask):
    """Interprets a program. Branches that run side by side share nothing, unless ``shared``."""

    def __init__(self, program: Program, shared: bool = False) -> None:
        super().__init__(random_nodes(), self._flow)
        self.program = program
        self.shared = shared

    async def _flow(self, episode: Episode, example: Example) -> Any:
        log: list[str] = []
        result = await self._execute(self.program, episode, str(example.question), log)
        for name in ("r0", "r1"):
            episode.reward(name, digest(name, result) % 3 / 2)
        return {"result": result, "log": log}

    async def _execute(self, program: Program, episode: Episode, x: str, log: list[str]) -> str:
        kind, *rest = program
        if kind == "call":
            shown = f"{x} {log[-1]}" if self.shared and log else x
            candidates = [f"c{digest(shown, n) % 5}" for n in range(3)]
            got = str(await episode.call(rest[0], x=shown, candidates=candidates))
            log.append(f"{rest[0]}{got}")
            return got
        if kind == "sequence":
            for each in rest[0]:
                x = await self._execute(each, episode, x, log)
            return x
        if kind == "branch":
            chosen = rest[digest(x) % 2]
            return await self._execute(chosen, episode, x + "b", log)
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
        # It would start coroutines in the order of their addresses.
        for each in asyncio.as_completed([asyncio.create_task(e) for e in inner]):
            got += await each
        return got
