"""Runs in which episodes, rollouts and updates fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.training.checkpoint import checkpoints
from support.fake_engine import digest, writer
from support.tiny_training import Run, selected

MakeRun = Callable[..., Run]


def failing(*ids: str) -> Any:
    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=example.question)
        if example.id in ids:
            raise KeyError(f"{example.id} cannot be played")
        episode.reward("draft", digest(text) % 5 / 4)

    return flow


def one_node() -> list[Any]:
    return [writer("draft", "draft", max_new_tokens=4)]


def test_episodes_that_fail_are_told_and_the_run_goes_on(make_run: MakeRun) -> None:
    run = make_run(flow=failing("e3", "e6"), nodes=one_node, gate="draft", max_failures=0.5)
    trainer = run.train()
    assert trainer.position.episodes == 8
    # Eight episodes, and a rollout of each that did not fail.
    assert (trainer.position.failed, trainer.position.played) == (2, 14)
    failed = selected(run, "SELECT example_id, error FROM episodes WHERE error IS NOT NULL")
    assert sorted(failed) == [
        ("e3", "KeyError: 'e3 cannot be played'"),
        ("e6", "KeyError: 'e6 cannot be played'"),
    ]
    overall = trainer.progressive.overall["draft"]
    assert (overall.defined, overall.undefined) == (6, 0)


def test_rollouts_that_fail_are_told_and_make_no_preference(make_run: MakeRun) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=example.question)
        if episode.steps[0].substituted:
            raise KeyError("no deviations, please")
        episode.reward("draft", digest(text) % 5 / 4)

    run = make_run(flow=flow, nodes=one_node, gate="draft", max_failures=1.0)
    trainer = run.train()
    assert (trainer.position.failed, trainer.position.played) == (8, 16)
    assert selected(run, "SELECT count(*) FROM preferences") == [(0,)]
    assert selected(run, "SELECT DISTINCT outcome FROM rollouts") == [("failed",)]
    assert trainer.session.adapters.version("draft") == 0


def test_too_many_failures_end_the_run_when_it_is_over(make_run: MakeRun) -> None:
    run = make_run(flow=failing("e3", "e6"), nodes=one_node, gate="draft", max_failures=0.1)
    message = r"2 of 14 episodes and rollouts failed, more than training\.max_failures = 0\.1"
    with pytest.raises(FlowtuneError, match=message) as ended:
        run.train()
    assert "KeyError" in str(ended.value)
    assert "in flow" in str(ended.value)
    assert selected(run, "SELECT count(*) FROM episodes") == [(8,)]


def test_too_many_failures_end_the_run_at_once_when_there_are_enough_to_tell(
    make_run: MakeRun,
) -> None:
    ids = [f"e{n}" for n in range(40)]
    run = make_run(flow=failing(*ids), nodes=one_node, gate="draft", count=40, batch_size=4)
    with pytest.raises(FlowtuneError, match="20 of 20 episodes and rollouts failed"):
        run.train()
    assert checkpoints(run.directory.checkpoints)[-1].name == "0000020"


def test_a_loss_that_is_not_finite_leaves_the_last_good_state(make_run: MakeRun) -> None:
    run = make_run()
    trainer = run.trainer()

    def poison(report: Any) -> None:
        if report.episodes == 6 and report.record is not None:
            trainer.session.adapters.parameters(reference_of("draft"))[0].data.fill_(float("nan"))

    trainer.on_report = poison
    with pytest.raises(FlowtuneError, match="the loss of node 'draft' is nan"):
        trainer.train()
    assert [path.name for path in checkpoints(run.directory.checkpoints)] == ["0000004"]
    assert selected(run, "SELECT count(*) FROM episodes") == [(6,)]
