"""Greedy figures on held-out examples, at a run's checkpoints; they change nothing of the run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..config.settings import TrainingSettings
from ..flow.deviation import win, wins_name
from ..flow.episode import Failure
from ..flow.errors import FlowtuneError, UsageError, unknown_name
from ..flow.example import Example
from ..flow.figures import each_figure
from ..flow.left_out import LeftOut
from ..flow.numbers import is_bool, real_number
from ..flow.task import Task
from ..learning.peers import ALONE, Peers
from ..runs.evaluations import LOWER, Evaluation, Figure
from ..runs.untrained_results import UntrainedResults
from .judged import evaluators_by_name, judge
from .progressive import Average
from .session import Session

_LOW = {"loss", "error", "errors", "perplexity", "ppl", "wer", "cer", "mae", "mse", "rmse"}
"""Words of figures that are better the lower they are."""


@dataclass(frozen=True)
class EvaluationReport:
    """Progress of an evaluation.

    Args:
        episodes: trained on before it.
        played, examples: of the held-out examples, so far and in all.
        evaluation: when it has ended.
        is_best: it is the best one so far.
        failure: the first example whose flow failed, and how.
        problem: why figures are missing, which may need all examples, or are not what they seem.
    """

    episodes: int
    played: int
    examples: int
    evaluation: Evaluation | None = None
    is_best: bool = False
    failure: tuple[str, Failure] | None = None
    problem: str = ""


def is_due(episodes: int, total: int, settings: TrainingSettings) -> bool:
    """Whether the checkpoint after so many episodes is evaluated.

    It depends on the settings alone, not on where a run was stopped: a checkpoint that is made
    because of that is not evaluated.

    Args:
        total: the run's episodes.
    """
    every, window = settings.evaluate.every, settings.save_every
    if not every:
        return False
    if episodes in (0, total):
        return True
    before = (episodes - 1) // window * window
    return episodes % window == 0 and episodes // every > before // every


def evaluate(
    session: Session,
    examples: Sequence[Example],
    *,
    episodes: int,
    batch: int,
    metric: str | None,
    untrained: UntrainedResults,
    check: Callable[[], None] = lambda: None,
    on_report: Callable[[EvaluationReport], None] = lambda report: None,
    peers: Peers = ALONE,
) -> EvaluationReport:
    """Play the held-out examples greedily with the present adapters.

    The noise is always the same, and not that of training.

    Args:
        episodes, batch: of training before it.
        metric: that of the run's first evaluation; None if this is the first.
        untrained: those of the first evaluation, which writes them. Where the flow reports no
            reward, the evaluators of its nodes compare with them.
        check: called between the engine's calls; may raise.
        peers: each plays its share, and all get the report.

    Returns:
        The report of the evaluation that has ended.

    Raises:
        UsageError: there are no figures, or not the one of ``training.evaluate.metric``.
        FlowtuneError: no flow came to its end, or the task could not evaluate the predictions,
            although none is missing.
    """
    played = _Played()
    for of_one in peers.each(
        lambda: _play_share(session, examples, peers, check, episodes, on_report)
    ):
        played.add(of_one)
    evaluated = partial(
        _evaluated, session, examples, played, episodes, batch, metric, untrained, check
    )
    return peers.first(evaluated)


@dataclass
class _Played:
    """What playing examples gave, by their places."""

    rewards: dict[int, Mapping[str, float | None]] = field(default_factory=dict)
    predictions: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)

    def add(self, other: _Played) -> None:
        self.rewards |= other.rewards
        self.predictions |= other.predictions
        self.results |= other.results
        self.failures |= other.failures


def _play_share(
    session: Session,
    examples: Sequence[Example],
    peers: Peers,
    check: Callable[[], None],
    episodes: int,
    on_report: Callable[[EvaluationReport], None],
) -> _Played:
    """Play this process's share of the examples."""
    found = _Played()
    task = session.task
    own = type(task).evaluate is not Task.evaluate
    places = range(peers.rank, len(examples), peers.size)
    share = [examples[place] for place in places]
    seed = f"{session.settings.training.seed}/evaluate"
    for number, episode in session.play_all(share, check, seed=seed):
        place = places[number]
        if episode.failure is not None:
            found.failures[place] = episode.failure
        else:
            found.rewards[place] = episode.reward_means()
            if session.evaluators:
                found.results[place] = episode.result
            if own:
                found.predictions[place] = _predicted(task, examples[place], episode.result)
        done = len(found.rewards) + len(found.failures)
        on_report(EvaluationReport(episodes, done, len(examples)))
    return found


def _evaluated(
    session: Session,
    examples: Sequence[Example],
    played: _Played,
    episodes: int,
    batch: int,
    metric: str | None,
    untrained: UntrainedResults,
    check: Callable[[], None],
) -> EvaluationReport:
    """The report of an evaluation whose examples were all played; see ``evaluate``."""
    task = session.task
    rewards, predictions, failures = played.rewards, played.predictions, played.failures
    problems: list[str] = []
    figures = reward_figures([rewards[position] for position in sorted(rewards)])
    if played.results and not figures:
        is_first = metric is None
        figures, found_problem = _wins(
            session, examples, played.results, untrained, is_first, check
        )
        problems.append(found_problem)
    if predictions:
        positions = sorted(predictions)
        asked = [examples[position] for position in positions]
        found: Mapping[str, Figure] = {}
        try:
            found = task_figures(task, asked, [predictions[position] for position in positions])
        except FlowtuneError as error:
            if not failures:
                raise
            problems.append(f"without the task's own figures, since some are missing: {error}")
        problems += [f"the task's own figures {text}" for text in task.left_out.texts()]
        figures |= {name: figure for name, figure in found.items() if name not in figures}
    failure = None
    if failures:
        position = min(failures)
        failure = examples[position].id, failures[position]
    if metric is None:
        metric = _metric(session, figures, failure)
        problems.append(_doubt(metric))
    problem = "; ".join(filter(None, problems))
    count = len(examples)
    evaluation = Evaluation(episodes, batch, count, len(failures), metric, figures)
    return EvaluationReport(episodes, count, count, evaluation, failure=failure, problem=problem)


def reward_figures(rewards: Sequence[Mapping[str, float | None]]) -> dict[str, Figure]:
    """Each reward's mean over the examples where it is defined.

    Args:
        rewards: those of each example.
    """
    means: dict[str, Average] = {}
    for of_example in rewards:
        for name, value in of_example.items():
            means.setdefault(name, Average()).add(value)
    return {name: Figure(average.mean, average.defined) for name, average in means.items()}


def _wins(
    session: Session,
    examples: Sequence[Example],
    results: Mapping[int, Any],
    untrained: UntrainedResults,
    is_first: bool,
    check: Callable[[], None],
) -> tuple[dict[str, Figure], str]:
    """How often the flow ended better than before training, as evaluators judge; and a problem.

    Ties count half.

    Args:
        results: of the flow now, by the number of the example.
        is_first: nothing is trained yet.
    """
    evaluators = evaluators_by_name(session.evaluators.items())
    if is_first:
        untrained.write(results)
        return {wins_name(name): Figure(0.5, len(results)) for name in evaluators}, ""
    before = untrained.read()
    if before is None:
        return {}, f"there is nothing to compare with: {untrained.path} is missing"
    figures, problems = {}, []
    for name, evaluator in evaluators.items():
        gains, failed = judge(session, evaluator, examples, before, results, check)
        average = Average()
        for gain in gains.values():
            average.add(win(gain))
        figures[wins_name(name)] = Figure(average.mean, average.defined)
        if failed:
            problems.append(
                f"evaluator '{name}' failed for {len(failed)} of {len(results)} examples:"
                f" {failed[0].error}"
            )
    return figures, "; ".join(problems)


def task_figures(
    task: Task, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    """The figures of the task's own evaluation that are numbers; what is not finite is undefined.

    Raises:
        FlowtuneError: the task raised an exception.
    """
    task.left_out = LeftOut()
    with _naming(task):
        found = {
            name: value for name, value, _ in each_figure(task.evaluate(examples, predictions))
        }
    return {name: figure for name, value in found.items() if (figure := _figure(value))}


def _figure(value: Any) -> Figure | None:
    """An own figure; None for what is no number, as a text. NaN is an undefined one."""
    if value is None:
        return Figure(None)
    if is_bool(value) or isinstance(value, (str, bytes)) or not hasattr(type(value), "__float__"):
        return None
    try:
        return Figure(real_number(value))
    except ValueError:
        return Figure(None)


def _predicted(task: Task, example: Example, result: Any) -> Mapping[str, Any]:
    with _naming(task):
        return task.prediction(example, result)


@contextmanager
def _naming(task: Task) -> Iterator[None]:
    try:
        yield
    except FlowtuneError:
        raise
    except Exception as error:
        raise FlowtuneError(
            f"task '{task.name}' cannot evaluate what its flow has predicted for held-out"
            f" examples:\n{Failure.of(error).traceback}"
        ) from error


def _metric(
    session: Session, figures: Mapping[str, Figure], failed: tuple[str, Failure] | None
) -> str:
    """The figure that says which checkpoint is the best.

    Raises:
        UsageError: there is none.
        FlowtuneError: there are none because no flow came to its end.
    """
    task, wanted = session.task, session.settings.training.evaluate.metric
    if not figures and failed is not None:
        raise FlowtuneError(
            f"the flow failed for every held-out example. The first one is '{failed[0]}':\n"
            f"{failed[1].traceback}"
        )
    if not figures:
        raise UsageError(
            f"nothing can be evaluated: the flow of task '{task.name}' reports no reward for"
            " held-out examples, no node that deviates has an evaluator, and the task has no"
            " evaluation of its own. Set training.evaluate.every = 0"
        )
    if wanted is None:
        gate = task.gate
        return gate if gate is not None and gate in figures else next(iter(figures))
    name = wanted.removeprefix(LOWER)
    if name not in figures:
        error = unknown_name("figure", name, list(figures))
        raise UsageError(f"training.evaluate.metric: {error}")
    return wanted


def _doubt(metric: str) -> str:
    """That the metric is called as what one wants to be low; empty if it is not."""
    words = re.split(r"[^a-z]+", metric.lower())
    if metric.startswith(LOWER) or not _LOW.intersection(words):
        return ""
    return (
        f"the highest '{metric}' counts as the best; if the lowest is, set"
        f" training.evaluate.metric = '{LOWER}{metric}'"
    )
