"""Setting a task up, and playing on its bench."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.engine import blocked_weights
from flowtune_cli.exploration import DiverseBeam, MultiSample
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.learning.optimizers import adam
from flowtune_cli.nodes import Generate, Judge
from flowtune_cli.rewards import LLMJudge
from support.fake_engine import writer
from support.tiny_training import Run, written

MakeRun = Callable[..., Run]


def test_what_the_nodes_name_is_found(make_run: MakeRun) -> None:
    def nodes() -> list[Any]:
        text = writer("x").prompt
        return [
            writer("draft", "r", explore_options={"penalty": 9.0}),
            writer("wild", None, evaluator="llm_judge", explore="multi_sample"),
            writer("still", None, explore="unknown to all"),
            writer("fixed", "r", learn="nothing"),
            Judge(name="judge", prompt=text, score="likelihood", text="{x}", scale=2.0),
        ]

    bench = make_run(nodes=nodes, learning={"optimizer": "adam", "optimizer_options": {}}).bench()
    assert bench.explorations == {"draft": DiverseBeam(penalty=9.0), "wild": MultiSample()}
    assert list(bench.evaluators) == ["llm_judge"]
    assert isinstance(bench.evaluators["llm_judge"], LLMJudge)
    assert bench.optimizer is adam
    assert bench.adapters.nodes == ("draft", "wild", "still", "judge")
    assert bench.adapters.calibration("judge") == (2.0, -2.0)
    assert bench.adapters.parameters("draft")[0].shape == (2, 64)  # of the rank


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"explore": "diverse_bean"}, r"exploration 'diverse_bean'\. Did you mean 'diverse_beam'"),
        ({"evaluator": "llm_jugde"}, r"evaluator 'llm_jugde'\. Did you mean 'llm_judge'"),
    ],
)
def test_names_that_are_not_there(make_run: MakeRun, node: dict[str, str], message: str) -> None:
    run = make_run(nodes=lambda: [writer("draft", **node)])
    with pytest.raises(UsageError, match=message):
        run.bench()


@pytest.mark.skipif(not blocked_weights._has_blocks(), reason="needs oneDNN on x86")
def test_weights_lie_in_blocks_where_the_processor_gains(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gains in (True, False):
        monkeypatch.setattr(blocked_weights, "_has_blocks", lambda gains=gains: gains)
        model = make_run().bench().adapters.model
        blocked = [m for m in model.modules() if isinstance(m, blocked_weights.BlockedLinear)]
        assert bool(blocked) is gains


def test_an_optimizer_that_is_not_there(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match=r"optimizer 'kocob'\. Did you mean 'cocob'"):
        make_run(learning={"optimizer": "kocob"}).bench()


def test_options_are_for_nodes_of_the_task_whether_they_learn_or_not(make_run: MakeRun) -> None:
    def nodes() -> list[Any]:
        return [writer("draft", "r"), writer("fixed", "r", learn="nothing")]

    def learning(node: str) -> dict[str, Any]:
        options = {"lr": 0.1}
        return {"optimizer": "adam", "optimizer_options": {}, "node_options": {node: options}}

    assert make_run(nodes=nodes, learning=learning("fixed")).bench().adapters.nodes == ("draft",)
    for section in ("node_options", "calibration_options"):
        settings = {**learning("draft"), section: {"daft": {"lr": 0.1}}}
        message = rf"unknown node in learning\.{section} 'daft'\. Did you mean 'draft'"
        with pytest.raises(UsageError, match=message):
            make_run(nodes=nodes, learning=settings).bench()


class Fixed(Generate):
    """Would learn, and has nothing to learn with."""

    uses_adapter = False


def test_a_node_without_an_adapter_that_cannot_learn(make_run: MakeRun) -> None:
    def nodes(**more: Any) -> Callable[[], list[Any]]:
        return lambda: [Fixed(name="draft", prompt=writer("x").prompt, **more)]

    for more in ({"reward": "r"}, {"learn": "supervised"}):
        run = make_run(nodes=nodes(**more))
        with pytest.raises(UsageError, match=r"node 'draft' .* or set learn = 'nothing'"):
            run.bench()
    assert make_run(nodes=nodes(reward="r", learn="nothing")).bench().adapters.nodes == ()


def test_playing_is_the_greedy_part_of_exploring(make_run: MakeRun) -> None:
    run = make_run(count=5)
    bench = run.bench()
    played = dict(bench.play(run.examples))
    explored = dict(bench.explore(run.examples))
    assert sorted(played) == sorted(explored) == list(range(5))
    for position, trace in explored.items():
        assert trace.example == run.examples[position]
        assert written(trace.episode) == written(played[position])
    assert any(trace.deviations for trace in explored.values())


def test_something_can_be_done_before_each_batch_of_the_engine(make_run: MakeRun) -> None:
    run = make_run(count=2)
    bench = run.bench()
    calls: list[int] = []

    def between() -> None:
        calls.append(len(bench.engine._generations) + len(bench.engine._scores))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dict(bench.play(run.examples, between))
    assert calls[0] == 0
    assert calls == sorted(set(calls))
