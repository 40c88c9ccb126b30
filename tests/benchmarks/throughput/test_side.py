"""Both sides run the same records, take over each other's adapters, and are measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.throughput import curves, tables
from benchmarks.throughput.check import Report, check
from benchmarks.throughput.compare import compare
from benchmarks.throughput.meter import PHASES, Figures
from benchmarks.throughput.records import Setup, mixed
from benchmarks.throughput.side import Side
from flowtune_cli.flow.example import Example
from flowtune_cli.registry import load_registry

pytest.importorskip("flowtune_toyqa")


@pytest.fixture
def setup(tiny_model_dir: Path) -> Setup:
    return Setup(
        "toyqa",
        None,
        2,
        (
            f"model.name={tiny_model_dir}",
            "model.dtype=float32",
            "tasks.toyqa.nodes.query.reward=answer_f1",
            "tasks.toyqa.nodes.query.max_new_tokens=4",
            "tasks.toyqa.nodes.answer.max_new_tokens=3",
        ),
    )


def weights(side: Side) -> dict[str, Any]:
    adapters = side.session.adapters
    return {n: [p.detach().clone() for p in adapters.parameters(n)] for n in adapters.versions}


def test_check_finds_both_alike(setup: Setup) -> None:
    report = check(setup)
    assert report.errors == []
    assert report.counts["score"] > 10
    assert report.counts["output"] > 10


def test_sides_do_the_same_work(setup: Setup, tmp_path: Path) -> None:
    fast, plain = Side(setup, plain=False), Side(setup, plain=True)
    figures = fast.train(0, 2)
    expected = plain.train(0, 2)
    assert (figures.rollouts, figures.preferences) == (expected.rollouts, expected.preferences)
    assert figures.generated == expected.generated > 0
    assert figures.needed == expected.needed
    assert figures.needed < figures.tokens < expected.tokens
    for seen in (figures, expected):
        assert sum(seen.phases.values()) == pytest.approx(seen.seconds)
        assert seen.phases["play"] > 0
        assert seen.phases["deviate"] > 0
        assert seen.peak_mb > 100


def test_a_side_takes_over_the_other_s_state(setup: Setup, tmp_path: Path) -> None:
    fast, plain = Side(setup, plain=False), Side(setup, plain=True)
    for parameters in weights(fast).values():
        assert parameters
    fast.session.adapters.parameters("query")[0].data.add_(1.0)
    fast.save(tmp_path / "state")
    plain.load(tmp_path / "state")
    mine, others = weights(fast), weights(plain)
    assert all(a.equal(b) for name in mine for a, b in zip(mine[name], others[name], strict=True))


def test_predicting_deviates_from_nothing(setup: Setup) -> None:
    figures = Side(setup, plain=False).predict(0, 2)
    assert (figures.examples, figures.rollouts) == (2, 0)
    assert figures.phases["deviate"] == figures.phases["learn"] == 0


def test_records_are_mixed_and_the_same_every_time() -> None:
    examples = [Example(f"{hops}hop__{n}", {}) for hops in (2, 2, 3, 4) for n in range(9)]
    examples = list({e.id: e for e in examples}.values())
    chosen = [e.id for e in mixed(examples, 6)]
    assert [name[0] for name in chosen] == ["2", "3", "4", "2", "3", "4"]
    assert chosen == [e.id for e in mixed(examples[::-1], 6)]


def test_figures_add_up() -> None:
    first = Figures(2, 3.0, peak_mb=10)
    total = first + Figures(1, 1.5, tokens=7, peak_mb=5)
    total.phases["learn"] += 1.0
    assert (total.examples, total.seconds, total.tokens, total.peak_mb) == (3, 4.5, 7, 10)
    assert (total + total).phases == {**dict.fromkeys(PHASES, 0.0), "learn": 2.0}


def test_curves_set_what_they_say(setup: Setup) -> None:
    for name, values in curves.VALUES.items():
        assert curves.overrides(name, values[-1], setup)
    given = curves.overrides("alternatives", 8, setup)
    assert "tasks.toyqa.nodes.answer.alternatives=8" in given
    assert not any(".stop." in text for text in given)
    load_registry().task("toyqa")


def test_tables_show_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    mine = Figures(4, 10.0, 10.0, tokens=50, needed=40, flops=10**12)
    other = Figures(4, 40.0, 40.0, tokens=400, needed=40, flops=10**13)
    about = {"model": "m", "dtype": "float32", "threads": 1, "peak_gflops": 1000.0}
    sums = {"flowtune": mine, "paired": mine, "plain": other}
    tables.show({"about": about, "train": sums})
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "examples an hour" in line)
    assert "1440.0" in line
    assert "360.0" in line
    assert "4.00" in line
    assert "80.0%" in shown


def test_the_check_says_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.compare("score", 1.0, 1.5, 1.0, "there")
    report.compare("score", 1.0, 1.00001, 1.0, "here")
    report.compare("score", float("nan"), 1.0, 1.0, "nowhere")
    report.same("preferences", [1], [2])
    assert len(report.errors) == 3
    tables.show_check(report)
    assert "DIFFERS: score of there" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_takes_turns(setup: Setup) -> None:
    said: list[str] = []
    result = compare(setup, ["predict", "train"], 1, said.append)
    for mode in ("predict", "train"):
        assert [result[mode][k].examples for k in ("flowtune", "paired", "plain")] == [2, 1, 1]
    assert len(said) == 4
    json.dumps(result["about"])
