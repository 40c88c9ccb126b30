"""Online joint fine-tuning: play, deviate, prefer, update; batch after batch.

Each mini-batch is played with the current adapters, its rewards are recorded (progressive
validation), and then all nodes learn from the preferences that its deviations imply. Paper,
section 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine.adapters import reference_of
from ..flow.deviation import Trace
from ..flow.episode import Failure
from ..flow.errors import FlowtuneError, UsageError
from ..flow.example import Example
from ..flow.node import Node, SelfLearning
from ..flow.numbers import real_number
from ..learning.learner import Learner, Update
from ..runs.batch import BatchRecord, MetricRecord, UpdateRecord
from ..runs.directory import RunDirectory
from ..runs.evaluations import Evaluation, best_of, without_a_better
from ..runs.journal import Journal
from ..runs.store import Store
from ..runtime.effects import Effects
from ..trackers.tracking import Trackers
from .admission.examine import admit
from .admission.finding import Finding
from .carry_over import carry_over
from .checkpoint import (
    Position,
    checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from .data import NodeData, collect
from .evaluation import EvaluationReport, evaluate, is_due
from .order import training_order
from .progressive import Progressive
from .session import Play, Session


class Stopped(Exception):
    """Training was asked to stop; everything before ``position`` is in a checkpoint."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"stopped after {position.episodes} episodes")
        self.position = position


@dataclass(frozen=True)
class Report:
    """Progress of training: after each mini-batch, and within one after each episode.

    Args:
        episodes: played so far, rollouts included.
        total: to play in all.
        record: of the mini-batch that has just ended; None within one.
        progressive: window and overall averages up to the last mini-batch.
    """

    episodes: int
    total: int
    record: BatchRecord | None
    progressive: Progressive


@dataclass
class _Clock:
    """Seconds by phase, for one mini-batch."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Trainer:
    """Trains one run, from its start or from its newest checkpoint.

    Args:
        session: the task with its model.
        run: where everything is written.
        examples: to train on; they are shuffled by the seed and cut to the limit here.
        on_report: called as training goes on.
        should_stop: asked between engine calls; True checkpoints and raises ``Stopped``.
        on_findings: called with what the run's first mini-batch shows to be wrong with the flow.
        held_out: the examples that checkpoints are evaluated on, if training.evaluate says so.
        on_evaluation: called as an evaluation goes on.

    Attributes:
        evaluations: those of the run so far.

    Raises:
        UsageError: there is nothing to train on, or an example has no gold.
    """

    def __init__(
        self,
        session: Session,
        run: RunDirectory,
        examples: Sequence[Example],
        *,
        on_report: Callable[[Report], None] = lambda report: None,
        should_stop: Callable[[], bool] = lambda: False,
        on_findings: Callable[[Sequence[Finding]], None] = lambda findings: None,
        held_out: Sequence[Example] = (),
        on_evaluation: Callable[[EvaluationReport], None] = lambda report: None,
    ) -> None:
        self.session = session
        self.run = run
        self.settings = session.settings.training
        self.order = training_order(
            examples, self.settings.seed, self.settings.limit, self.settings.passes
        )
        self.on_report = on_report
        self.should_stop = should_stop
        self.on_findings = on_findings
        self.held_out = held_out
        self.on_evaluation = on_evaluation
        self.evaluations: list[Evaluation] = []
        if self.settings.evaluate.every and not held_out:
            raise UsageError("there is nothing to evaluate on: the data has no held-out examples")
        self.learner: Learner = session.learner()
        self.position = Position()
        self.progressive = Progressive(gate=session.task.gate)
        self.last_failure: tuple[str, Failure] | None = None
        self._journal: Journal | None = None

    def resume(self) -> None:
        """Resume from the newest checkpoint; ``train`` first removes what was stored after it."""
        found = checkpoints(self.run.checkpoints)
        if found:
            self.position, self.progressive = load_checkpoint(
                found[-1],
                adapters=self.session.adapters,
                learner=self.learner,
                nodes=self.session.task.nodes,
            )

    def start_from(self, checkpoint: Path, renamed: Mapping[str, str] | None = None) -> list[str]:
        """Start from another run's checkpoint, see ``carry_over``; says what was taken.

        The start is saved as a checkpoint of this run, so that the other run is not needed again.

        Args:
            renamed: by the name of a node here, its name there.
        """
        session = self.session
        nodes = session.task.nodes
        said = list(carry_over(checkpoint, session.adapters, self.learner, nodes, renamed or {}))
        self._checkpoint()
        return said

    def train(self) -> Progressive:
        """Play, deviate, prefer and update until every example was played.

        Raises:
            Stopped: ``should_stop`` said so.
            Refused: the flow would learn nothing, or something wrong, as its first mini-batch
                shows; nothing is stored.
            FlowtuneError: too many episodes failed, or a loss was not finite. The newest
                checkpoint holds the last good state.
        """
        task = self.session.task
        settings = self.session.settings
        trackers = Trackers(settings.run.trackers, self.run, settings.model_dump(mode="json"))
        with (
            trackers,
            Store(self.run.store_path, task.question_text) as store,
            closing(Journal(self.run.journal_path, self.position.episodes)) as self._journal,
        ):
            # Nodes' starts are then not needed again, and the untrained flow may be the best.
            begins = any(node.start for node in task.nodes) or bool(self.settings.evaluate.every)
            if begins and not checkpoints(self.run.checkpoints):
                self._checkpoint()
            store.truncate(self.position.batches)
            store.write_task(task.nodes, task.gate)
            self.evaluations = store.evaluations()
            try:
                self._evaluate(store, trackers)  # where it stopped before that was done
                while self.position.episodes < len(self.order) and not self.ended_early:
                    self._stop_if_asked()  # a flow may ask the engine for nothing
                    self._batch(store, trackers)
                    self._evaluate(store, trackers)
            except Stopped:
                self._checkpoint()
                raise
        self._check_failures(final=True)
        return self.progressive

    @property
    def ended_early(self) -> bool:
        """Whether the latest evaluations were no better, for as long as there is patience."""
        patience = self.settings.evaluate.patience
        return 0 < patience <= without_a_better(self.evaluations)

    def _evaluate(self, store: Store, trackers: Trackers) -> None:
        """Evaluate the present checkpoint, if that is due and was not done yet."""
        episodes = self.position.episodes
        done = any(each.episodes == episodes for each in self.evaluations)
        if done or not is_due(episodes, len(self.order), self.settings):
            return
        report = evaluate(
            self.session,
            self.held_out,
            episodes=episodes,
            batch=self.position.batches,
            metric=self.evaluations[0].metric if self.evaluations else None,
            check=self._stop_if_asked,
            on_report=self.on_evaluation,
        )
        evaluation = report.evaluation
        assert evaluation is not None
        store.write_evaluation(evaluation)
        self.evaluations.append(evaluation)
        prune(self.run.checkpoints, self.settings.keep_checkpoints, self._best)
        trackers.log_evaluation(evaluation)
        self.on_evaluation(replace(report, is_best=self._best == episodes))

    @property
    def _best(self) -> int | None:
        """The number of episodes of the best checkpoint."""
        best = best_of(self.evaluations)
        return None if best is None else best.episodes

    def _batch(self, store: Store, trackers: Trackers) -> None:
        clock = _Clock()
        begin = self.position.episodes
        batch = self.order[begin : begin + self._batch_size(begin)]
        adapters = self.session.adapters
        versions = {node: adapters.version(name) for node, name in adapters.owners.items()}

        with clock.phase("play and deviate"):
            self.session.engine.forget()
            traces = self._deviate(batch)
        collected = collect(self.session.task.nodes, traces)
        self._count_failures(traces)
        if not self.position.batches:
            self._admit(traces)
        for trace in traces:
            self.progressive.add(trace.episode.reward_means())
        metrics = self._metrics()
        with clock.phase("learn"):
            updates = self._learn(collected)
        end = begin + len(batch)
        # A window that the end of the data cuts short proves nothing; it goes on if more come.
        ends_window = end % self.settings.save_every == 0
        moved = self._end_window() if ends_window else None
        checkpoint = ends_window or end == len(self.order)

        record = BatchRecord(
            batch=self.position.batches,
            traces=traces,
            position=begin,
            adapter_versions=versions,
            updates=updates,
            metrics=metrics,
            reference_update=moved,
            checkpoint=checkpoint,
            timings=clock.seconds,
        )
        store.write_batch(record)
        self.position = replace(self.position, episodes=end, batches=self.position.batches + 1)
        if checkpoint:
            self._checkpoint()
        self.run.update(episodes=self.position.episodes)
        trackers.log(record)
        self.on_report(Report(self.position.episodes, len(self.order), record, self.progressive))
        self._check_failures()

    def _deviate(self, batch: Sequence[Example]) -> list[Trace]:
        """Play the batch and deviate from it; traces in the order of the examples."""
        traces: dict[int, Trace] = {}
        begin = self.position.episodes
        plays = [self._play(begin + number, example) for number, example in enumerate(batch)]
        for position, trace in self.session.deviate_plays(plays, self._stop_if_asked):
            traces[position] = trace
            done = self.position.episodes + len(traces)
            if len(traces) < len(batch):
                self.on_report(Report(done, len(self.order), None, self.progressive))
        return [traces[position] for position in range(len(batch))]

    def _play(self, number: int, example: Example) -> Play:
        """An episode, with what is known of its effects since the newest checkpoint."""
        assert self._journal is not None
        kept = self._journal.episode(number)
        examples_a_pass = len(self.order) // self.settings.passes
        effects = Effects(kept.ends, kept.orders, kept)
        return Play(example, effects, number // examples_a_pass)

    def _admit(self, traces: Sequence[Trace]) -> None:
        """Look at the run's first mini-batch before anything is learned from it.

        Raises:
            Refused: the flow would learn nothing, or something wrong.
        """
        session = self.session
        self.on_findings(
            admit(session.task, traces, limits=session.limits, check=self._stop_if_asked)
        )

    def _stop_if_asked(self) -> None:
        if self.should_stop():
            raise Stopped(self.position)

    def _learn(self, collected: Mapping[str, NodeData]) -> list[UpdateRecord]:
        """Update every node that has data; the others stay bit-identical."""
        data = [datum for node_data in collected.values() for datum in node_data.data]
        # Frees memory for learning.
        self.session.engine.forget(keep=self.learner.frozen_prefixes(data))
        made: dict[str, UpdateRecord] = {}
        by_adapter: dict[str, dict[str, NodeData]] = {}
        for name, node_data in collected.items():
            node = self.session.task.node(name)
            if isinstance(node, SelfLearning):
                made[name] = _self_update(node, node_data)
            else:
                adapter = self.session.adapters.owners[name]
                by_adapter.setdefault(adapter, {})[name] = node_data
        for adapter, of_adapter in by_adapter.items():
            made.update(self._update(adapter, of_adapter))
        return [made[name] for name in collected]

    def _update(self, adapter: str, collected: Mapping[str, NodeData]) -> dict[str, UpdateRecord]:
        """Update an adapter once, from the data of all nodes that use it."""
        adapters = self.session.adapters
        data = {name: node_data.data for name, node_data in collected.items() if node_data.data}
        before = adapters.version(adapter)
        updates = self.session.update(self.learner, adapter, data) if data else {}
        drift = adapters.distance(adapter) if data else None
        return {
            name: _record(
                name, node_data, before, adapters.version(adapter), updates.get(name), drift
            )
            for name, node_data in collected.items()
        }

    def _end_window(self) -> dict[str, bool]:
        """Close the window; if it passes the gate, move the references towards the policies."""
        passed = self.progressive.close_window()
        weight = self.session.settings.learning.reference_weight
        moved = {}
        adapters = self.session.adapters
        for name in adapters.names:
            nodes = (self.session.task.node(node) for node in adapters.nodes_of(name))
            compared = [node.name for node in nodes if node.learn == "preferences"]
            moves = passed and weight > 0
            if compared and moves:
                adapters.move(reference_of(name), name, weight)
            moved.update(dict.fromkeys(compared, moves))
        return moved

    def _batch_size(self, begin: int) -> int:
        """Batches end where windows end, so that each has ``save_every`` episodes."""
        left_in_window = self.settings.save_every - begin % self.settings.save_every
        return min(self.settings.batch_size, left_in_window)

    def _checkpoint(self) -> None:
        save_checkpoint(
            self.run.checkpoints,
            position=self.position,
            adapters=self.session.adapters,
            learner=self.learner,
            nodes=self.session.task.nodes,
            progressive=self.progressive,
            keep=self.settings.keep_checkpoints,
            best=self._best,
        )
        if self._journal is not None:
            self._journal.forget(self.position.episodes)

    def _metrics(self) -> Mapping[str, MetricRecord]:
        return {
            name: MetricRecord(
                window=self.progressive.window[name].mean
                if name in self.progressive.window
                else None,
                overall=overall.mean,
                defined=overall.defined,
                undefined=overall.undefined,
            )
            for name, overall in self.progressive.overall.items()
        }

    def _count_failures(self, traces: Sequence[Trace]) -> None:
        for trace in traces:
            failures = trace.failures
            if failures:
                self.last_failure = trace.example.id, failures[-1]
            self.position = replace(
                self.position,
                failed=self.position.failed + len(failures),
                played=self.position.played + len(trace.runs),
            )

    def _check_failures(self, *, final: bool = False) -> None:
        """Stop when too large a share has failed, once there are enough to tell."""
        failed, played = self.position.failed, self.position.played
        if not failed or (played < 20 and not final):
            return
        if failed / played > self.settings.max_failures:
            last = ""
            if self.last_failure is not None:
                example, failure = self.last_failure
                last = f" The last one, of example '{example}':\n{failure.traceback}"
            raise FlowtuneError(
                f"{failed} of {played} episodes and rollouts failed, more than"
                f" training.max_failures = {self.settings.max_failures} allows.{last}"
            )


def _record(
    node: str,
    node_data: NodeData,
    before: int,
    after: int,
    update: Update | None,
    drift: float | None,
) -> UpdateRecord:
    """What is stored of a node's part in an update of its adapter, if it had data for it."""
    record = UpdateRecord(
        node, before, after, 0, len(node_data.preferences), len(node_data.targets)
    )
    if update is None:
        return record
    return replace(
        record,
        data=update.data,
        loss=update.loss,
        margin=update.margin,
        accuracy=update.accuracy,
        gradient_norm=update.gradient_norm,
        reference_drift=drift,
    )


def _self_update(node: SelfLearning, node_data: NodeData) -> UpdateRecord:
    assert isinstance(node, Node)
    loss = _self_learned(node, node_data)
    preferences, targets = len(node_data.preferences), len(node_data.targets)
    return UpdateRecord(node.name, 0, 0, preferences + targets, preferences, targets, loss)


def _self_learned(node: SelfLearning, node_data: NodeData) -> float:
    """The loss of a node that learns by itself."""
    assert isinstance(node, Node)
    try:
        return real_number(node.update(node_data.preferences, node_data.targets))
    except FlowtuneError:
        raise
    except Exception as error:
        raise FlowtuneError(
            f"node '{node.name}' failed while it learned by itself ({type(node).__name__}.update),"
            f" and what it has learned may be incomplete:\n{Failure.of(error).traceback}"
        ) from error
