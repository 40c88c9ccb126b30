"""Flows that wait for nodes alone: the same requests in the same batches, in the same order.

The order is that of ``support.reference_scheduler``, which has no event loop.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest, Request, ScoreRequest
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.scheduler import Scheduler, ask, gather
from support import reference_scheduler as reference
from support.fake_engine import EXAMPLE, FakeEngine, explored
from support.random_flows import NODES, Program, RandomTask

# Trees of requests


trees = st.recursive(st.integers(0, 3), lambda inner: st.lists(inner, max_size=3), max_leaves=10)


def _request(path: str) -> Request:
    prompt = Prompt((Message("text", (Segment(path),)),), chat=False)
    adapter = "abc"[len(path) % 3]
    if path.count("1") % 2:
        return ScoreRequest(adapter, ((prompt, ("yes",)),))
    return DecodeRequest(adapter, prompt, max_new_tokens=9)


async def _climb(tree: Any, path: str, using: Any) -> Any:
    if isinstance(tree, int):
        for number in range(tree):
            await using.ask(_request(f"{path}{number}"))
        return path
    if len(tree) % 2:
        await using.ask(_request(path))
    branches = await using.gather(_climb(b, f"{path}.{n}", using) for n, b in enumerate(tree))
    if len(tree) > 1:
        await using.ask(_request(path + "after"))
    return branches


class _Now:
    ask, gather = staticmethod(ask), staticmethod(gather)


@settings(max_examples=200)
@given(st.lists(trees, max_size=7), st.integers(1, 4), st.integers(1, 6))
def test_random_trees(forest: list[Any], in_flight: int, batch_requests: int) -> None:
    def stream(scheduler: Any, using: Any) -> tuple[Any, ...]:
        engine = FakeEngine()
        coroutines = (_climb(tree, str(n), using) for n, tree in enumerate(forest))
        found = list(scheduler(engine, in_flight, batch_requests).stream(coroutines))
        return found, engine.batches

    assert stream(Scheduler, _Now) == stream(reference.Scheduler, reference)


# Whole flows with their deviations


def _program(chance: random.Random, depth: int = 2) -> Program:
    program: Program = [("call", chance.choice(NODES))]
    for _ in range(chance.randint(1, 4)):
        kind = chance.choice(["call", "call", "reward", "loop", "branch"])
        if kind == "call" or depth == 0:
            program.append(("call", chance.choice(NODES)))
        elif kind == "reward":
            program.append(("reward", chance.choice(["r0", "r1"]), chance.random() < 0.3))
        elif kind == "loop":
            program.append(("loop", _program(chance, depth - 1)))
        else:
            inner = _program(chance, depth - 1)
            program.append(("branch", inner, _program(chance, depth - 1)))
    return [*program, ("reward", "r0", False), ("reward", "r1", False)]


def _fingerprint(seed: int) -> str:
    """A digest of all batches of some examples of a random flow and their deviations."""
    chance = random.Random(seed)
    tasks = [RandomTask(_program(chance)) for _ in range(3)]
    engine = FakeEngine()
    coroutines = [
        deviate(task, replace(EXAMPLE, id=f"e{n}"), explorations=explored(task), evaluators={})
        for n, task in enumerate(tasks * 2)
    ]
    Scheduler(engine, in_flight=chance.randint(1, 5), batch_requests=256).run(coroutines)
    shown = [
        [
            (type(r).__name__, r.adapter, _as_then(getattr(r, "prompt", getattr(r, "items", ""))))
            for r in batch
        ]
        for batch in engine.batches
    ]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def _as_then(prompts: Any) -> str:
    """Prompts as text, without what they could not have yet when this was recorded."""
    shown = str(prompts).replace(", tool_calls=(), tool_call_id=None, name=None", "")
    return shown.replace(", tools=''", "")


RECORDED = {
    0: "417f2dfecfc7569c",
    1: "46c7750a81743d80",
    2: "29e8455b1bb7d1e2",
    3: "bdcd75c4b415d066",
    4: "68d8c2d12daf6e6e",
    5: "d1304e696fba12bd",
    6: "c4fd5eb44140bb3f",
    7: "a2ea495991ce4fb0",
    8: "4620cd78526809a9",
    9: "8826824070b2e290",
    10: "a7db79a9b9719e71",
    11: "467422f588a9ccf9",
    12: "6d71cd5d67b013b0",
    13: "9aa4651df33f7440",
    14: "03396960085c71f0",
    15: "876bb0cb8ce6efd3",
    16: "4155324f2b331f52",
    17: "57030123cb7ccb89",
    18: "22e6ac7b621e4349",
    19: "a65d3b46a369d515",
}
"""By the scheduler that had no event loop."""


@pytest.mark.parametrize("seed", range(20))
def test_random_flows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rollouts share nothing behind their deviation, as it was then.
    monkeypatch.setattr("flowtune_cli.runtime.replay.inputs_digest", lambda inputs: None)
    assert _fingerprint(seed) == RECORDED[seed]
