"""Runs in which episodes, rollouts and updates fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.engine.adapters import reference_of
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.registry import Registry
from flowtune_cli.training.checkpoint import checkpoints
from support.fake_engine import digest, writer
from support.tiny_training import Run, Urn, selected

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


class Judge:
    """Fails for every rollout but those of two examples."""

    name = "judge"

    async def compare(self, ask: Any, task: Any, example: Example, *episodes: Episode) -> float:
        if example.id in ("e1", "e2"):
            return 1.0
        raise TimeoutError("no answer")


def test_an_evaluator_that_fails_counts_as_failed_rollouts(make_run: MakeRun) -> None:
    nodes = [writer("draft", None, evaluator="judge", max_new_tokens=4)]
    run = make_run(flow=failing(), nodes=lambda: nodes, gate=None, max_failures=0.4)
    # As if a plugin had registered it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "make_evaluator", lambda self, setting: Judge())
        trainer = run.trainer()
    trainer.train()
    assert (trainer.position.failed, trainer.position.played) == (6, 16)
    outcomes = "SELECT outcome, count(*) FROM rollouts GROUP BY outcome ORDER BY outcome"
    assert selected(run, outcomes) == [("alternative better", 2), ("evaluator failed", 6)]
    [(reason, traceback)] = selected(
        run, "SELECT DISTINCT reason, traceback FROM rollouts WHERE outcome = 'evaluator failed'"
    )
    assert reason == "judge: TimeoutError: no answer"
    assert "in compare" in traceback
    assert trainer.session.adapters.version("draft") > 0


def test_a_huge_reward_fails_the_episode_and_names_it(make_run: MakeRun) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("draft", x=example.question)
        episode.reward("draft", 1e300)

    run = make_run(flow=flow, nodes=one_node, gate="draft")
    with pytest.raises(FlowtuneError, match="max_failures") as ended:
        run.train()
    said = "ValueError: reward 'draft' is 1e+300; it must be from -1e+30 to 1e+30: scale it"
    assert said in str(ended.value)
    assert "The last one, of example 'e" in str(ended.value)


def test_a_loss_that_a_large_reward_makes_infinite_is_blamed_on_it(make_run: MakeRun) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=example.question)
        episode.reward("draft", digest(text) % 5 * 1e29)

    nodes = [writer("draft", "draft", max_new_tokens=4, weight=1e30)]
    run = make_run(flow=flow, nodes=lambda: nodes, gate="draft")
    with pytest.raises(FlowtuneError, match="scale the reward to about one, or lower the weight"):
        run.train()


@pytest.mark.parametrize("loss", [float("nan"), KeyError("lost")])
def test_a_node_that_fails_to_learn_by_itself_is_named(make_run: MakeRun, loss: Any) -> None:
    class Lost(Urn):
        def update(self, preferences: Any, targets: Any) -> float:
            if isinstance(loss, Exception):
                raise loss
            return loss  # type: ignore[no-any-return]

    async def flow(episode: Episode, example: Example) -> None:
        colour = await episode.call("urn", x=1)
        episode.reward("end", float(colour == "blue"))

    run = make_run(flow=flow, nodes=lambda: [Lost(reward="end")])
    said = r"node 'urn' failed while it learned by itself \(Lost.update\)"
    with pytest.raises(FlowtuneError, match=said):
        run.train()
