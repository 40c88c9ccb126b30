"""Runs whose outputs servers decode, from their start to their end, and killed in between."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.trackers.metrics import batch_metrics
from flowtune_cli.training.loop import Stopped
from support.fake_servers import Serve
from support.fake_vllm import FakeVllm
from support.tiny import same
from support.tiny_training import Run, adapters_of, selected
from support.writing_flow import flow, nodes


async def waiting(episode: Episode, example: Example) -> str:
    """The same with a tool, so that requests come one after the other."""
    await episode.effect(time.sleep, 0.001)
    return await flow(episode, example)


class Remote(Run):
    """A run whose outputs servers decode."""

    def __init__(self, *args: Any, servers: list[FakeVllm], **more: Any) -> None:
        vllm = {"urls": [server.url for server in servers], "timeout": 20.0}
        engine = {"rollouts": "vllm", "vllm": vllm}
        more = {"flow": flow, "nodes": nodes, "gate": "check", "engine": engine, **more}
        super().__init__(*args, **more)


@pytest.mark.parametrize("played", [flow, waiting])
def test_a_run_is_the_same_as_one_that_decodes_here(
    tiny_settings: ModelSettings, tmp_path: Path, serve: Serve, played: Any
) -> None:
    more: dict[str, Any] = {"count": 6, "flow": played, "nodes": nodes, "gate": "check"}
    here = Run(tiny_settings, tmp_path, "here", **more)
    servers = [serve(rank=2), serve(rank=2)]
    there = Remote(tiny_settings, tmp_path, "there", servers=servers, **more)
    expected, found = here.train(), there.train()
    for query in (
        "select node, prompt, output, tokens from steps order by episode, rollout, step",
        "select node, text from alternatives order by episode, step, number",
    ):
        assert selected(there, query) == selected(here, query)
    moved = False
    for name, weights in adapters_of(expected).items():
        for own, other in zip(adapters_of(found)[name], weights, strict=True):
            assert torch.allclose(own, other, atol=1e-5)
            moved = moved or bool(other.abs().max() > 1e-3)
    assert moved, "something was learned"
    for server in servers:
        assert server.adapters == []
        # Each version of each node that was played with, once.
        assert len(server.seen.loaded) == len(set(server.seen.loaded)) > 4
    assert not (there.directory.path / "rollouts").exists()
    gaps = [metrics for r in there.records for metrics in [batch_metrics(r)]]
    assert all(0 <= each["node/draft/rollout_gap"] < 1e-3 for each in gaps)
    assert not any("rollout_gap" in name for r in here.records for name in batch_metrics(r))


def test_a_server_killed_and_started_again_changes_nothing(
    tiny_settings: ModelSettings, tmp_path: Path, serve: Serve
) -> None:
    calm = Remote(tiny_settings, tmp_path, "calm", servers=[serve(rank=2)], count=6)
    expected = adapters_of(calm.train())
    server = serve(rank=2)
    killed = Remote(tiny_settings, tmp_path, "killed", servers=[server], count=6)
    server.faults.dies = server.number + 12

    def revive() -> None:
        server.wait()
        time.sleep(0.1)
        server.start()

    thread = threading.Thread(target=revive, daemon=True)
    thread.start()
    found = adapters_of(killed.train())
    thread.join(10)
    assert server.starts == 2
    for name, weights in expected.items():
        assert same(found[name], weights), name


def test_a_run_that_was_stopped_is_resumed(
    tiny_settings: ModelSettings, tmp_path: Path, serve: Serve
) -> None:
    whole = Remote(tiny_settings, tmp_path, "whole", servers=[serve(rank=2)])
    expected = adapters_of(whole.train())
    server = serve(rank=2)
    run = Remote(tiny_settings, tmp_path, "stopped", servers=[server])
    with pytest.raises(Stopped):
        run.train(should_stop=lambda: len(run.records) >= 3)
    assert server.adapters == []
    found = adapters_of(run.train())
    for name, weights in expected.items():
        assert same(found[name], weights), name


def test_a_server_that_is_not_there_is_told_before_anything_is_stored(
    tiny_settings: ModelSettings, tmp_path: Path, serve: Serve
) -> None:
    server = serve(rank=2)
    run = Remote(tiny_settings, tmp_path, "gone", servers=[server])
    server.kill()
    with pytest.raises(UsageError, match="no server of vLLM answers"):
        run.train()
    assert not run.directory.store_path.exists()
