"""Evaluations on held-out examples: when, with which figures, and that training never notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flowtune_cli.config.settings import ModelSettings, TrainingSettings
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import DataError, FlowtuneError, UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runs.evaluations import Figure, best_of
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import Store
from flowtune_cli.training.checkpoint import checkpoints
from flowtune_cli.training.evaluation import is_due
from flowtune_cli.training.loop import Stopped, Trainer
from support.fake_engine import FlowTask, digest, writer
from support.runs_compared import learned, rows
from support.tiny_training import Run, adapters_of, letters, selected

MakeRun = Callable[..., Run]
EVERY_4 = {"held_out": 5, "evaluate": {"every": 4}}


def stored(run: Run) -> list[Any]:
    with RunReader(run.directory.store_path) as reader:
        return reader.evaluations()


def of_training(run: Run) -> list[str]:
    return [row for row in rows(run.directory.path) if "evaluation" not in row]


# When


@pytest.mark.parametrize(
    ("every", "window", "total", "expected"),
    [
        (0, 4, 12, []),
        (4, 4, 12, [0, 4, 8, 12]),
        (6, 4, 20, [0, 8, 12, 20]),
        (1, 4, 9, [0, 4, 8, 9]),
        (100, 4, 10, [0, 10]),
        (8, 3, 20, [0, 9, 18, 20]),
    ],
)
def test_the_first_regular_checkpoint_at_or_after_each_multiple_is_evaluated(
    every: int, window: int, total: int, expected: list[int]
) -> None:
    settings = TrainingSettings.model_validate({"save_every": window, "evaluate": {"every": every}})
    assert [n for n in range(total + 1) if is_due(n, total, settings)] == expected


def test_before_training_and_at_checkpoints(make_run: MakeRun) -> None:
    run = make_run(count=10, **EVERY_4)
    run.train()
    evaluations = stored(run)
    assert [(e.episodes, e.batch) for e in evaluations] == [(0, 0), (4, 2), (8, 4), (10, 5)]
    assert {(e.examples, e.failed, e.metric) for e in evaluations} == {(5, 0, "end")}
    # What was learned shows.
    assert len({str(e.figures) for e in evaluations}) > 1
    done = [report for report in run.evaluations if report.evaluation is not None]
    assert [report.evaluation for report in done] == evaluations
    within = [report.played for report in run.evaluations if report.evaluation is None]
    assert within == [1, 2, 3, 4, 5] * 4


# What


def test_figures_are_means_over_the_examples_where_they_are_defined(make_run: MakeRun) -> None:
    run = make_run(count=4, **EVERY_4)
    session = run.session()
    run.train()
    played = dict(session.play_all(run.held_out, seed="42/evaluate"))
    means = [played[n].reward_means() for n in range(5)]
    drafts = [m["draft"] for m in means]
    ends = [m["end"] for m in means if m["end"] is not None]
    assert len(ends) == 4
    first = stored(run)[0]
    assert first.figures == {
        "draft": Figure(sum(drafts) / 5, 5),
        "end": Figure(sum(ends) / 4, 4),
    }


class Evaluated(FlowTask):
    """It has figures of its own, of the examples whose flow came to its end."""

    gate = None

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        assert [p["id"] for p in predictions] == [e.id for e in examples]
        self.leave_out("e", "no reason")
        return {
            "good": len(predictions),
            "draft": 100.0,
            "text": "no figure",
            "yes": True,
            "group": {"a": 0.5, "b": float("nan")},
            "intervals": {"good": [0, 1]},
        }


def evaluated(run: Run, flow: Any, task_type: type[FlowTask] = Evaluated) -> Run:
    make = run.session

    def session() -> Any:
        made = make()
        made.task.__class__ = task_type
        made.task.flow = flow
        return made

    run.session = session  # type: ignore[method-assign]
    return run


async def failing(episode: Episode, example: Example) -> Any:
    if example.id in ("held-out-e1", "held-out-e3"):
        raise RuntimeError("never")
    return await letters(episode, example)


def test_failed_examples_are_counted_and_in_no_figure(make_run: MakeRun) -> None:
    run = evaluated(make_run(count=4, gate=None, **EVERY_4), failing)
    run.train()
    first = stored(run)[0]
    assert (first.examples, first.failed) == (5, 2)
    assert list(first.figures) == ["draft", "end", "good", "group.a", "group.b"]
    assert first.figures["good"] == Figure(3.0)
    assert first.figures["group.a"] == Figure(0.5)
    assert first.figures["group.b"] == Figure(None)  # NaN
    # A reward's own mean, not the task's figure of that name.
    assert first.figures["draft"].defined == 3
    assert first.figures["end"].defined == 2
    assert first.metric == "draft"  # the first one, without a gate
    report = next(each for each in run.evaluations if each.evaluation)
    assert report.failure is not None
    assert report.failure[0] == "held-out-e1"
    assert "RuntimeError: never" in report.failure[1].error
    assert report.problem == "the task's own figures left out 1 example (no reason): 'e'"
    # Failures of evaluations are not those of training.
    assert selected(run, "SELECT max(total_failed) FROM batches") == [(0,)]


def test_the_metric_may_be_one_of_the_tasks_own(make_run: MakeRun) -> None:
    settings = {"held_out": 5, "evaluate": {"every": 4, "metric": "group.a"}}
    run = evaluated(make_run(count=4, **settings), failing)
    run.train()
    assert [(e.metric, e.value) for e in stored(run)] == [("group.a", 0.5)] * 2


class Lossy(FlowTask):
    """Its own figure falls, stays, falls and is undefined."""

    gate = None
    values: ClassVar[Any] = ()

    def evaluate(self, examples: Any, predictions: Any) -> Any:
        return {"loss": next(self.values)}


@pytest.mark.parametrize(("metric", "best"), [("-loss", 8), ("loss", 0)])
def test_the_best_may_be_the_lowest(make_run: MakeRun, metric: str, best: int) -> None:
    Lossy.values = iter((3.0, 2.0, 1.0, float("nan")))
    settings = {"held_out": 2, "evaluate": {"every": 4, "metric": metric}}
    run = evaluated(make_run(count=12, **settings), letters, Lossy)
    run.train()
    assert [e.value for e in stored(run)] == [3.0, 2.0, 1.0, None]
    found = best_of(stored(run))
    assert found is not None
    assert (found.episodes, found.metric_name) == (best, "loss")
    assert [report.is_best for report in run.evaluations if report.evaluation][2] == (best == 8)
    with RunReader(run.directory.store_path) as reader:
        headline = reader.headline()
    assert headline is not None
    assert (headline.name, headline.lower_is_better) == ("loss", best == 8)
    doubts = [report.problem for report in run.evaluations if "the highest" in report.problem]
    expected = (
        "the highest 'loss' counts as the best; if the lowest is, set"
        " training.evaluate.metric = '-loss'"
    )
    assert doubts == ([] if best == 8 else [expected])


def test_a_metric_that_is_not_there_is_said_before_training(make_run: MakeRun) -> None:
    run = make_run(count=4, held_out=2, evaluate={"every": 4, "metric": "ned"})
    with pytest.raises(
        UsageError,
        match=r"training.evaluate.metric: unknown figure 'ned'. Did you "
        r"mean 'end'\? Known: draft, end",
    ):
        run.train()
    assert selected(run, "SELECT count(*) FROM batches") == [(0,)]
    assert stored(run) == []


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("fails", "failed for every held-out example. The first one is 'held-out-e0':\nTraceback"),
        ("silent", "the flow of task 'flow' reports no reward for held-out examples"),
    ],
)
def test_nothing_to_evaluate(make_run: MakeRun, flow: str, message: str) -> None:
    async def play(episode: Episode, example: Example) -> Any:
        if not example.id.startswith("held-out"):
            return await letters(episode, example)
        if flow == "fails":
            raise RuntimeError
        return {}

    run = make_run(count=4, flow=play, **EVERY_4)
    with pytest.raises(FlowtuneError, match=message):
        run.train()


def test_no_examples_to_evaluate_on(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="the data has no held-out examples"):
        make_run(evaluate={"every": 4}).trainer()


def test_a_task_that_cannot_evaluate_is_named(make_run: MakeRun) -> None:
    class Broken(FlowTask):
        def evaluate(self, examples: Any, predictions: Any) -> Any:
            return 1 / 0

    run = evaluated(make_run(count=4, **EVERY_4), letters, Broken)
    with pytest.raises(FlowtuneError, match=r"task 'flow' cannot evaluate(.*\n)+.*ZeroDivision"):
        run.train()


def test_a_task_that_wants_all_examples_does_not_stop_training_where_one_failed(
    make_run: MakeRun,
) -> None:
    class Pairs(FlowTask):
        def evaluate(self, examples: Any, predictions: Any) -> Any:
            if len(examples) < 5:
                raise DataError("the other of a pair is missing")
            return {"pairs": 2}

    whole = evaluated(make_run(count=4, **EVERY_4), letters, Pairs)
    whole.train()
    assert stored(whole)[0].figures["pairs"] == Figure(2.0)
    run = evaluated(make_run(count=4, **EVERY_4), failing, Pairs)
    run.train()
    assert [list(each.figures) for each in stored(run)] == [["draft", "end"]] * 2
    report = next(each for each in run.evaluations if each.evaluation)
    assert report.problem.endswith("some are missing: the other of a pair is missing")
    cut = evaluated(make_run(count=4, held_out=4, evaluate={"every": 4}), letters, Pairs)
    with pytest.raises(DataError, match="the other of a pair"):
        cut.train()
    assert selected(cut, "SELECT count(*) FROM batches") == [(0,)]


# Training never notices


def test_training_is_the_same_to_the_bit_with_and_without(make_run: MakeRun) -> None:
    plain, watched = make_run(count=10), make_run(count=10, **EVERY_4)
    finals = [adapters_of(run.train()) for run in (plain, watched)]
    assert len(stored(watched)) == 4
    assert stored(plain) == []
    for name, weights in finals[0].items():
        for mine, theirs in zip(weights, finals[1][name], strict=True):
            assert mine.equal(theirs)
    assert learned(plain.directory.path) == learned(watched.directory.path)
    assert of_training(plain) == of_training(watched)


def test_samples_of_an_evaluation_are_not_those_of_training(make_run: MakeRun) -> None:
    """Held-out example e0 has the id of none that is trained on; its noise is another one."""
    seeds: list[Any] = []
    run = make_run(count=4, held_out=1, evaluate={"every": 4})
    trainer = run.trainer()
    play_all = trainer.session.play_all

    def noted(*args: Any, **more: Any) -> Any:
        seeds.append(more["seed"])
        return play_all(*args, **more)

    trainer.session.play_all = noted  # type: ignore[method-assign]
    trainer.train()
    assert seeds == ["42/evaluate"] * 2


def test_nothing_is_remembered_from_an_evaluation(make_run: MakeRun) -> None:
    held: list[int] = []
    run = make_run(count=4, **EVERY_4)
    trainer = run.trainer(
        on_evaluation=lambda report: held.append(trainer.session.engine.answers_held)
    )
    trainer.train()
    assert held[5] == held[11] == 0
    assert min(held[:5]) > 0


# The best


def scripted(values: Sequence[float]) -> Any:
    """A flow whose held-out reward follows a script, evaluation by evaluation."""
    counts = itertools.count()

    async def flow(episode: Episode, example: Example) -> dict[str, Any]:
        draft = await episode.call("draft", x=example.question)
        value = digest(draft) % 5 / 4
        if example.id.startswith("held-out"):
            value = values[next(counts)]
        episode.reward("draft", value)
        return {}

    return flow


def make_scripted(make_run: MakeRun, values: Sequence[float], **more: Any) -> Run:
    evaluate = {"every": 2, **more.pop("evaluate", {})}
    return make_run(
        flow=scripted(values),
        nodes=lambda: [writer("draft", "draft", alternatives=2, max_new_tokens=4)],
        gate=None,
        held_out=1,
        save_every=2,
        evaluate=evaluate,
        **more,
    )


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.1, 0.9, 0.3, 0.2, 0.9], [2, 6, 8]),  # of two that are equal, the earlier
        ([0.5, 0.4, 0.3, 0.2, 0.1], [0, 6, 8]),
        ([0.1, 0.2, 0.3, 0.4, 0.5], [6, 8]),
    ],
)
def test_the_best_checkpoint_is_never_pruned(
    make_run: MakeRun, values: list[float], kept: list[int]
) -> None:
    run = make_scripted(make_run, values)
    run.train()
    assert [int(path.name) for path in checkpoints(run.directory.checkpoints)] == kept
    best = [r.evaluation.episodes for r in run.evaluations if r.evaluation and r.is_best]
    assert best[-1] == kept[0] or best[-1] == 8


def test_training_ends_when_patience_does(make_run: MakeRun) -> None:
    values = [0.1, 0.5, 0.5, 0.2, 0.9]
    run = make_scripted(make_run, values, evaluate={"patience": 2})
    trainer = run.train()
    assert trainer.ended_early
    assert trainer.position.episodes == 6
    assert [e.value for e in stored(run)] == values[:4]
    # Gone on with, it still has none left; that is read from what is stored.
    again = run.train()
    assert again.ended_early
    assert again.position.episodes == 6
    assert len(stored(run)) == 4


def test_a_better_figure_renews_patience(make_run: MakeRun) -> None:
    run = make_scripted(make_run, [0.1, 0.0, 0.2, 0.1, 0.3], evaluate={"patience": 2})
    assert not run.train().ended_early
    assert run.trainer().position.episodes == 8


# Stopped, killed and resumed


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, int]:
    """What a run that was never stopped has learned and stored, and how often it was asked to."""
    calls = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWTUNE_PLUGINS", "")
        model = ModelSettings(name=str(tiny_model_dir), device="cpu", dtype="float32")
        run = Run(model, tmp_path_factory.mktemp("whole"), "whole", **EVERY_4)  # type: ignore[arg-type]
        run.train(should_stop=lambda: next(calls) < 0)
    assert len(stored(run)) == 3
    return learned(run.directory.path), rows(run.directory.path), next(calls)


def is_whole(run: Run, whole: tuple[Any, Any, int]) -> bool:
    path = run.directory.path
    return learned(path) == whole[0] and rows(path) == whole[1]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.99])
def test_stopped_at_any_moment_it_goes_on_as_if_never_stopped(
    make_run: MakeRun, whole: tuple[Any, Any, int], share: float
) -> None:
    run = make_run(**EVERY_4)
    stop_at = int(share * whole[2])
    calls = itertools.count()
    with pytest.raises(Stopped):
        run.train(should_stop=lambda: next(calls) == stop_at)
    run.train()
    assert is_whole(run, whole)


@pytest.mark.parametrize("episodes", [0, 4, 8])
@pytest.mark.parametrize("when", ["before", "within", "stored"])
def test_killed_around_an_evaluation_it_first_makes_what_is_missing(
    make_run: MakeRun, whole: tuple[Any, Any, int], episodes: int, when: str
) -> None:
    run = make_run(**EVERY_4)

    class Killed(BaseException):
        pass

    def kill(report: Any) -> None:
        place = "stored" if report.evaluation else "within"
        if (report.episodes, place) == (episodes, when):
            raise Killed

    evaluate = Trainer._evaluate

    def before(self: Trainer, *arguments: Any) -> None:
        if when == "before" and self.position.episodes == episodes:
            raise Killed
        evaluate(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", before)
        with pytest.raises(Killed):
            run.train(on_evaluation=kill)
    assert [e.episodes for e in stored(run)][-1:] != [episodes] or when == "stored"
    again = run.trainer()
    assert again.position.episodes == episodes  # its checkpoint is there
    seen: list[int] = []
    again.on_evaluation = lambda report: seen.append(report.episodes)
    again.train()
    assert (episodes in seen) == (when != "stored")
    assert is_whole(run, whole)


def test_what_came_after_a_checkpoint_goes_with_its_batches(make_run: MakeRun) -> None:
    run = make_run(**EVERY_4)
    run.train()
    with Store(run.directory.store_path, str) as store:
        store.truncate(3)
        assert [e.episodes for e in store.evaluations()] == [0, 4]
        store.truncate(0)
        assert [e.episodes for e in store.evaluations()] == [0]
        with pytest.raises(ValueError, match="evaluated batch 4, not 0"):
            store.write_evaluation(run.evaluations[-1].evaluation)  # type: ignore[arg-type]
    assert selected(run, "SELECT DISTINCT episodes FROM evaluation_figures") == [(0,)]
