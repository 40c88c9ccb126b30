"""What servers decode equals what is decoded here; what they get wrong ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.request import (
    GREEDY,
    Constraint,
    Decoded,
    DecodeRequest,
    Decoding,
    Generation,
    Request,
    Scored,
    ScoreRequest,
)
from support.tiny import plain
from tests.rollouts.conftest import Serve, connected, rolling


def written(
    text: str, adapter: str | None = "a", most: int = 6, how: Decoding = GREEDY, **more: object
) -> DecodeRequest:
    return DecodeRequest(adapter, plain(text), most, decoding=how, seed=(0, "x"), **more)  # type: ignore[arg-type]


def shown(generation: Generation) -> tuple[object, ...]:
    return generation.text, generation.tokens, generation.truncated, generation.tool_calls


def test_it_decodes_what_the_local_engine_decodes(
    local: ModelEngine, serve: Serve, tmp_path: Path
) -> None:
    requests: list[Request] = [
        written("one", "a"),
        written("one", "b"),
        written("one", None),
        written("two", "a", 12, stop=("e",)),
        ScoreRequest("b", ((plain("one"), ("x", "yy")),)),
        written("three", "b", logprobs=True),
        written("three", "a", constraint=Constraint("choice", '["yes", "no"]')),
    ]
    server = serve()
    expected = local.answer(requests)
    local.forget()
    with rolling(local, tmp_path / "adapters", server) as engine:
        found = engine.answer(requests)
        asked = len(server.seen.completions)
        assert engine.answer(requests) == found
        assert len(server.seen.completions) == asked, "what was answered is remembered"
    for own, other in zip(found, expected, strict=True):
        assert type(own) is type(other)
        if isinstance(own, Decoded):
            assert isinstance(other, Decoded)
            assert [shown(g) for g in own.generations] == [shown(g) for g in other.generations]
            for g, h in zip(own.generations, other.generations, strict=True):
                assert g.logprob == pytest.approx(h.logprob, abs=1e-4)
            assert own.adapter_version == other.adapter_version
        elif isinstance(own, Scored):
            assert isinstance(other, Scored)
            values = [[x.logprob for x in each.likelihoods[0]] for each in (own, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-4)
    texts = [a.generations[0].text for a in found[:3] if isinstance(a, Decoded)]
    assert len(set(texts)) == 3
