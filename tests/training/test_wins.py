"""Runs without a reward have a curve: how often evaluators judge in the flow's favour."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.runs.evaluations import Figure
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.training.loop import Stopped
from support.fake_engine import digest, writer
from support.runs_compared import rows
from support.tiny_training import Run

MakeRun = Callable[..., Run]


def nodes() -> list[Node]:
    return [
        replace(writer("draft", None, alternatives=2, max_new_tokens=4), evaluator="llm_judge"),
        replace(writer("end", None, max_new_tokens=3), evaluator="llm_judge"),
    ]


async def unrewarded(episode: Episode, example: Example) -> Any:
    draft = await episode.call("draft", x=example.question)
    return {"text": draft + await episode.call("end", x=draft)}


class ByDigest:
    """An evaluator that likes the results with the greater digest; of every fourth it can't say."""

    name = "llm_judge"

    def compare(self, ask: Any, task: Any, example: Example, first: Any, second: Any) -> Any:
        values = [digest(str(episode.result)) for episode in (first, second)]
        if example.id.endswith("3"):
            return None
        return float(values[1] > values[0]) - float(values[1] < values[0])


def judged(make_run: MakeRun, flow: Any = unrewarded, **more: Any) -> Run:
    run = make_run(flow=flow, nodes=nodes, gate=None, **more)
    make = run.session

    def session() -> Any:
        made = make()
        made.evaluators = dict.fromkeys(made.evaluators, ByDigest())
        return made

    run.session = session  # type: ignore[method-assign]
    return run


def test_progressive_validation_counts_how_often_no_alternative_was_better(
    make_run: MakeRun,
) -> None:
    run = judged(make_run, count=8)
    run.train()
    count = {Outcome.GREEDY_BETTER: 1.0, Outcome.TIE: 0.5, Outcome.ALTERNATIVE_BETTER: 0.0}
    shares = []
    for trace in (trace for record in run.records for trace in record.traces):
        found = [count[d.outcome] for d in trace.deviations if d.outcome in count]
        if found:
            shares.append(sum(found) / len(found))
        else:
            assert {d.outcome for d in trace.deviations} == {Outcome.UNDEFINED}
    with RunReader(run.directory.store_path) as reader:
        [(name, points)] = reader.metrics().items()
        assert reader.rewards() == []
        assert reader.learning_warnings() == []
    last = points[-1].metric
    assert name == "llm_judge wins"
    assert (last.defined, last.undefined) == (len(shares), 8 - len(shares))
    assert last.undefined == 1
    assert last.overall == pytest.approx(sum(shares) / len(shares))
    assert 0 < last.overall < 1


def test_evaluations_compare_with_the_flow_before_training(make_run: MakeRun) -> None:
    run = judged(make_run, count=8, held_out=5, evaluate={"every": 4})
    session = run.session()
    untrained = [e.result for _, e in sorted(session.play_all(run.held_out, seed="42/evaluate"))]
    trainer = run.train()
    trained = [
        e.result for _, e in sorted(trainer.session.play_all(run.held_out, seed="42/evaluate"))
    ]
    assert trained != untrained
    wins = [
        0.5 if digest(str(a)) == digest(str(b)) else float(digest(str(b)) > digest(str(a)))
        for number, (a, b) in enumerate(zip(untrained, trained, strict=True))
        if number != 3
    ]
    with RunReader(run.directory.store_path) as reader:
        first, *_, last = reader.evaluations()
    assert first.figures == {"llm_judge wins": Figure(0.5, 5)}
    assert last.figures == {"llm_judge wins": Figure(sum(wins) / 4, 4)}
    assert last.metric == "llm_judge wins"


def test_a_resumed_run_compares_with_the_same(make_run: MakeRun) -> None:
    whole = judged(make_run, count=8, held_out=5, evaluate={"every": 4})
    whole.train()
    stopped = judged(make_run, count=8, held_out=5, evaluate={"every": 4})
    with pytest.raises(Stopped):
        stopped.train(should_stop=lambda: len(stopped.records) == 2)
    stopped.train()
    assert rows(stopped.directory.path) == rows(whole.directory.path)


def test_without_what_was_before_there_is_no_figure_and_it_is_said(make_run: MakeRun) -> None:
    run = judged(make_run, count=8, held_out=5, evaluate={"every": 4})
    with pytest.raises(Stopped):
        run.train(should_stop=lambda: len(run.records) == 1)
    run.directory.untrained_path.unlink()
    run.train()
    problems = {report.problem for report in run.evaluations if report.evaluation is not None}
    path = run.directory.untrained_path
    assert problems == {"", f"there is nothing to compare with: {path} is missing"}


async def with_an_object(episode: Episode, example: Example) -> Any:
    return {1: (await unrewarded(episode, example))["text"]}


def test_results_that_json_changes_are_refused(make_run: MakeRun) -> None:
    run = judged(make_run, with_an_object, count=4, held_out=2, evaluate={"every": 4})
    with pytest.raises(UsageError, match=r"type 'dict' is no JSON value.*texts as keys"):
        run.train()
    assert not run.directory.untrained_path.exists()


def test_a_flow_with_rewards_keeps_no_results(make_run: MakeRun) -> None:
    async def rewarded(episode: Episode, example: Example) -> Any:
        result = await unrewarded(episode, example)
        episode.reward("length", float(len(result["text"])))
        return result

    run = judged(make_run, rewarded, count=4, held_out=2, evaluate={"every": 4})
    run.train()
    assert not run.directory.untrained_path.exists()
    with RunReader(run.directory.store_path) as reader:
        assert list(reader.evaluations()[0].figures) == ["length"]
        assert reader.rewards() == ["length"]
        assert json.dumps(sorted(reader.metrics())) == '["length", "llm_judge wins"]'
