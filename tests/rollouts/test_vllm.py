"""vLLM itself decodes what is decoded here, with each state of an adapter, and after it was killed.

It needs an environment of its own: ``make vllm`` makes one, and FLOWTUNE_VLLM_PYTHON names its
Python.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.flow.request import Decoded, DecodeRequest, Decoding, Generation, Request
from flowtune_cli.models.loading import load_model
from flowtune_cli.registry import load_registry
from support.fake_servers import rolling
from support.real_vllm import RealVllm
from support.tiny import likelihood, make_adapters, make_engine, plain, randomize, state
from support.tiny_training import Run, adapters_of
from support.writing_flow import flow, nodes

PYTHON = os.environ.get("FLOWTUNE_VLLM_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="FLOWTUNE_VLLM_PYTHON is not set"),
]

RANK = 8
# Longer than a block of the prefix cache, which has 128 tokens on a processor.
TEXTS = [f"number {number} of them, " * 12 for number in range(12)]


@pytest.fixture(scope="module")
def model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads as wide as vLLM's attention needs them on a processor."""
    target = tmp_path_factory.mktemp("vllm") / "model"
    shutil.copytree(tiny_model_dir, target)
    config = LlamaConfig.from_pretrained(target)
    config.head_dim = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(target)
    return target


@pytest.fixture
def settings(model_dir: Path) -> ModelSettings:
    return ModelSettings(name=str(model_dir), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def server(model_dir: Path) -> Iterator[RealVllm]:
    made = RealVllm(str(PYTHON), model_dir, RANK, model_dir.parent / "log")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def local(settings: ModelSettings) -> ModelEngine:
    loaded = load_model(settings, load_registry())
    return make_engine(loaded, make_adapters(loaded, rank=RANK))


def written(text: str, adapter: str | None, most: int = 8, **more: Any) -> DecodeRequest:
    return DecodeRequest(adapter, plain(text), most, seed=(0, text), **more)


def outputs(answers: Any) -> list[tuple[Generation, ...]]:
    assert all(isinstance(answer, Decoded) for answer in answers)
    return [answer.generations for answer in answers]


def test_outputs_are_those_of_the_local_engine_through_updates(
    local: ModelEngine, server: RealVllm, tmp_path: Path
) -> None:
    """Adapters of two nodes and the base model in one batch; three states of the adapters."""
    requests: list[Request] = [
        *(written(text, adapter) for text in TEXTS for adapter in ("a", "b", None)),
        *(written(text, "a", 24, stop=("e", "\n")) for text in TEXTS),
    ]
    seen = []
    with rolling(local, tmp_path / "adapters", server) as engine:
        for version in range(3):
            local.forget()
            found = outputs(engine.answer(requests))
            local.forget()
            # Asked again, the prompts are in its cache, and change nothing.
            hits = server.cache_hits()
            again = outputs(engine.answer(requests))
            assert [[g.tokens for g in own] for own in again] == [
                [g.tokens for g in own] for own in found
            ]
            assert server.cache_hits() >= hits + 128 * len(requests)
            gaps = engine.watch.gaps()
            assert all(gap.present < 1e-4 < min(gap.previous, gap.base) for gap in gaps.values())
            local.forget()
            expected = outputs(local.answer(requests))
            assert [[g.tokens for g in own] for own in found] == [
                [g.tokens for g in other] for other in expected
            ]
            for own, other in zip(found, expected, strict=True):
                assert own[0].text == other[0].text
                assert own[0].truncated == other[0].truncated
                assert own[0].logprob == pytest.approx(other[0].logprob, abs=1e-3)
            seen.append(found)
            randomize(local.adapters, seed=version + 1)
            for node in ("a", "b"):
                local.adapters.versions[node] += 1
    learned = [n for n, request in enumerate(requests) if request.adapter is not None]
    for earlier, later in pairwise(seen):
        assert sum(earlier[n] != later[n] for n in learned) > len(learned) * 0.9
        assert all(earlier[n] == later[n] for n in range(len(requests)) if n not in learned)
    assert server.adapters() == []


def test_samples_and_groups(local: ModelEngine, server: RealVllm, tmp_path: Path) -> None:
    how = Decoding(groups=3, diversity_penalty=2.0, samples=3, temperature=1.2, top_p=0.95)
    requests: list[Request] = [written(text, "a", decoding=how) for text in TEXTS]
    with rolling(local, tmp_path / "adapters", server) as engine:
        found = outputs(engine.answer(requests))
        local.forget()
        again = outputs(engine.answer(requests))
        assert [[g.tokens for g in own] for own in again] == [
            [g.tokens for g in own] for own in found
        ], "samples depend on their seeds alone"
    local.forget()
    expected = outputs(local.answer(requests))
    for text, own, other in zip(TEXTS, found, expected, strict=True):
        assert own[0].tokens == other[0].tokens
        ids = local.tokens.encode(plain(text), 8).ids
        assert [mine.tokens for mine in own[1:3]] == [theirs.tokens for theirs in other[1:3]]
        for generation in own:
            value = float(likelihood(local.adapters, "a", ids, generation.tokens).detach())
            assert generation.logprob == pytest.approx(value, abs=1e-3)
    assert len({generation.tokens for own in found for generation in own[3:]}) > 30


def test_a_run_learns_what_it_learns_here_though_the_server_is_killed(
    settings: ModelSettings, server: RealVllm, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"count": 6, "adapter": {"rank": RANK}}
    more |= {"flow": flow, "nodes": nodes, "gate": "check"}
    expected = adapters_of(Run(settings, tmp_path, "here", **more).train())
    vllm = {"urls": [server.url], "timeout": 400.0}
    engine = {"rollouts": "vllm", "vllm": vllm}
    run = Run(settings, tmp_path, "there", engine=engine, **more)
    killed: list[threading.Thread] = []

    def kill() -> bool:
        """Between two batches of requests, once."""
        if len(run.records) == 1 and not killed:
            server.kill()
            killed.append(threading.Thread(target=server.start))
            killed[0].start()
        return False

    trainer = run.train(should_stop=kill)
    killed[0].join()
    found = adapters_of(trainer)
    for name, weights in expected.items():
        for own, other in zip(found[name], weights, strict=True):
            assert torch.allclose(own, other, atol=1e-4), name
    assert any(bool(w.abs().max() > 1e-3) for w in state(trainer.session.adapters, "draft"))
    assert server.adapters() == []
