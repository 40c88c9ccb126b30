"""The simulation of many GPUs, on traces that can be worked out by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from benchmarks.scale import Device, Trace, learn_seconds, mini_batch, play_seconds, read_traces
from flowtune_cli.runs.reader import RunReader
from support.tiny_training import Run

DEVICE = Device(step=1, row=0.1, read=0.01, learn=0.001, meeting=0.5, bandwidth=100, adapter=50)
TRACE = Trace(own=((10, 2), (20, 0)), rollouts=(((20, 0),), ((20, 0),)), data={"a": 100, "b": 50})


@pytest.fixture
def make_run(tiny_settings: Any, tmp_path: Path) -> Callable[..., Run]:
    return lambda **more: Run(tiny_settings, tmp_path, **more)


def test_calls_that_can_be_made_at_once_share_a_round() -> None:
    # A quarter of a rollout's prompt is read, as the rest was with the episode's.
    first, second, rollouts = 2 * 1 + 0.1, 0.2, 0.1
    assert play_seconds([TRACE], DEVICE) == pytest.approx(first + second + rollouts)
    both = (2 * 1.1 + 0.2) + 0.4 + 0.2
    assert play_seconds([TRACE, TRACE], DEVICE) == pytest.approx(both)
    assert play_seconds([], DEVICE) == 0


def test_whole_nodes_are_shared_out_with_a_step_a_datum_and_else_data() -> None:
    traces = [TRACE, TRACE]
    assert learn_seconds(traces, DEVICE, 1, True) == pytest.approx(0.3)
    assert [learn_seconds(traces, DEVICE, n, True) for n in (2, 8)] == pytest.approx([0.2, 0.2])
    assert [learn_seconds(traces, DEVICE, n, False) for n in (2, 8)] == pytest.approx([0.15, 0.1])


def test_a_mini_batch() -> None:
    alone = mini_batch([TRACE, TRACE], DEVICE, 1, True)
    assert alone.meet == 0
    assert alone.play == alone.mean_play == pytest.approx(3.0)
    two = mini_batch([TRACE, TRACE], DEVICE, 2, True)
    assert two.play == pytest.approx(2.4)
    assert two.meet == pytest.approx(2 * 0.5 + 2 * 50 / 100 * 1)
    four = mini_batch([TRACE, TRACE], DEVICE, 4, True)
    # To read the episode's prompts again would take as long as all of its rollouts.
    assert (four.play, four.mean_play) == (pytest.approx(2.4), pytest.approx(3.0 / 4))


def test_rows_say_what_costs_most() -> None:
    found = list(scale.rows([TRACE], DEVICE, [1, 2, 16], [4]))
    assert [row["efficiency"] for row in found if row["gpus"] == 1] == [1.0, 1.0]
    assert {row["lost most to"] for row in found if row["gpus"] == 16} == {"meeting"}
    efficiencies = [row["efficiency"] for row in found if row["step_per"] == "datum"]
    assert efficiencies == sorted(efficiencies, reverse=True)


def test_traces_of_a_run_and_back(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    run = make_run(count=4)
    run.train()
    traces = read_traces(run.directory.store_path)
    with RunReader(run.directory.store_path) as reader:
        nodes, counts = reader.node_summary(), reader.counts()
    assert len(traces) == counts.episodes == 4
    assert sum(len(trace.own) for trace in traces) == sum(node.steps for node in nodes)
    read = sum(r for t in traces for calls in (t.own, *t.rollouts) for r, _ in calls)
    assert read == sum(node.prompt_tokens for node in nodes)
    assert any(trace.data for trace in traces)

    saved = tmp_path / "traces.json"
    where = ["--run", str(run.directory.path), "--save", str(saved), "--gpus", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["scale", *where])
    scale.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["scale", "--traces", str(saved), "--gpus", "1", "2"])
    scale.main()
    assert capsys.readouterr().out == first
    assert json.loads(saved.read_text()) == json.loads(json.dumps([asdict(t) for t in traces]))
