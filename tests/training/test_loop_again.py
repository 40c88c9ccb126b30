"""The same run again: from the same seed, at another pace, and stopped and resumed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.engine.limits import Limits
from flowtune_cli.training.checkpoint import checkpoints
from flowtune_cli.training.loop import Stopped
from support.runs_compared import learned, rows
from support.tiny_training import Run, adapters_of, written

MakeRun = Callable[..., Run]


def test_the_same_settings_give_the_same_run_to_the_bit(make_run: MakeRun) -> None:
    one, two = make_run(), make_run()
    for run in (one, two):
        run.train()
    assert learned(one.directory.path) == learned(two.directory.path)
    assert rows(one.directory.path) == rows(two.directory.path)
    other = make_run(seed=7)
    other.train()
    assert rows(one.directory.path) != rows(other.directory.path)


@pytest.mark.parametrize("limits", [None, Limits(30, 30, 0)])
def test_how_much_is_computed_at_once_changes_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    usual, other = make_run(count=4), make_run(count=4, engine={"in_flight": 1})
    finals = [adapters_of(usual.train())]
    if limits is not None:
        monkeypatch.setattr(Limits, "for_model", lambda model: limits)
    finals.append(adapters_of(other.train()))
    played = [
        [
            written(episode)
            for record in run.records
            for t in record.traces
            for episode in [t.episode]
        ]
        for run in (usual, other)
    ]
    assert played[0] == played[1]
    for name, weights in finals[0].items():
        for mine, theirs in zip(weights, finals[1][name], strict=True):
            assert (mine - theirs).abs().max() < 1e-2


# Stopped and resumed


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, int]:
    """What a run that was never stopped has learned and stored, and its calls of the engine."""
    calls = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWTUNE_PLUGINS", "")
        model = ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")
        run = Run(model, tmp_path_factory.mktemp("whole"), "whole")
        run.train(should_stop=lambda: next(calls) < 0)
    return learned(run.directory.path), rows(run.directory.path), next(calls)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.75, 0.99])
def test_a_run_that_was_stopped_goes_on_as_if_never_stopped(
    make_run: MakeRun, whole: tuple[Any, Any, int], share: float
) -> None:
    run = make_run()
    stop_at = int(share * whole[2])
    calls = itertools.count()
    with pytest.raises(Stopped) as stopped:
        run.train(should_stop=lambda: next(calls) == stop_at)
    position = stopped.value.position
    assert position.episodes < 8
    newest = checkpoints(run.directory.checkpoints)[-1]
    assert newest.name == f"{position.episodes:07d}"
    trainer = run.train()
    assert trainer.position.episodes == 8
    assert learned(run.directory.path) == whole[0]
    assert rows(run.directory.path) == whole[1]


def test_a_run_that_is_stopped_again_and_again(
    make_run: MakeRun, whole: tuple[Any, Any, int]
) -> None:
    run = make_run()
    for _ in range(20):
        asked = itertools.count()
        try:
            run.train(should_stop=lambda asked=asked: next(asked) == 20)
        except Stopped:
            continue
        break
    else:
        pytest.fail("it never ended")
    assert learned(run.directory.path) == whole[0]
    assert rows(run.directory.path) == whole[1]


@pytest.mark.parametrize("episodes", [2, 5, 6, 8])
def test_a_run_that_died_goes_on_from_its_newest_checkpoint(
    make_run: MakeRun, whole: tuple[Any, Any, int], episodes: int
) -> None:
    run = make_run()

    def die(report: Any) -> None:
        if report.episodes == episodes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(on_report=die)
    trainer = run.trainer()
    assert trainer.position.episodes == (episodes // 4) * 4
    trainer.train()
    assert learned(run.directory.path) == whole[0]
    assert rows(run.directory.path) == whole[1]


def test_a_run_that_has_ended_has_nothing_left_to_do(make_run: MakeRun) -> None:
    run = make_run(count=4)
    run.train()
    before = learned(run.directory.path), rows(run.directory.path)
    run.reports.clear()
    run.train()
    assert run.reports == []
    assert (learned(run.directory.path), rows(run.directory.path)) == before
