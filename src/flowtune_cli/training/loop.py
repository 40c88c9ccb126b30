"""Online joint fine-tuning: play, deviate, prefer, update; batch after batch.

Each mini-batch is played with the current adapters, its rewards are recorded (progressive
validation), and then all nodes learn from the preferences that its deviations imply. Paper,
section 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ..engine.adapters import reference_of
from ..flow.deviation import Trace, greedy_wins
from ..flow.episode import Failure
from ..flow.errors import FlowtuneError, UsageError
from ..flow.example import Example
from ..learning.learner import Learner
from ..learning.peers import ALONE, Peers, Stop
from ..runs.batch import BatchRecord, MetricRecord
from ..runs.directory import RunDirectory
from ..runs.evaluations import Evaluation, best_of, without_a_better
from ..runs.journal import Journal
from ..runs.rank_journals import merge_journals, rank_journal
from ..runs.untrained_results import UntrainedResults
from ..runs.usage import Usage, together
from ..runtime.effects import Effects
from ..runtime.second_play import Recorded
from .admission.examine import admit
from .admission.finding import Finding, in_order
from .admission.requests import request_findings
from .carry_over import carry_over
from .checkpoint import (
    Position,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from .data import collect
from .deviating import Deviating
from .evaluation import EvaluationReport, evaluate, is_due
from .meter import used_so_far
from .order import training_order
from .other_models import all_spent
from .outputs import NoOutputs, Outputs
from .progressive import Progressive
from .session import Play, Session
from .updating import Updating


class Stopped(Stop):
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

    on_phase: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.on_phase(name)
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
        on_findings: called with what the run's first mini-batch shows to be wrong with the flow,
            and with requests that fail unnoticed later on.
        held_out: the examples that checkpoints are evaluated on, if training.evaluate says so.
        on_evaluation: called as an evaluation goes on.
        peers: the processes that train the run together; rank 0 writes it.
        on_phase: told what is done from now on, such as "learn".

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
        peers: Peers = ALONE,
        on_phase: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.session = session
        self.peers = peers
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
        self.on_phase = on_phase
        self.evaluations: list[Evaluation] = []
        if self.settings.evaluate.every and not held_out:
            raise UsageError("there is nothing to evaluate on: the data has no held-out examples")
        self.learner: Learner = session.learner()
        self.updating = Updating(session, self.learner, peers)
        self.position = Position()
        self.progressive = Progressive(gate=session.task.gate)
        self.last_failure: tuple[str, Failure] | None = None
        self._journal: Journal | None = None
        self._told: set[tuple[str, str | None]] = set()
        self._used_before = peers.first(lambda: run.info.usage)
        # Whether all is as it was after the episodes of the position, so that it may be saved.
        self._as_at_position = True

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
        outputs = NoOutputs()
        if self.peers.rank == 0:
            values = settings.model_dump(mode="json")
            outputs = Outputs(self.run, task, values, settings.run.trackers)
        with (
            self.session.rolling_out(*self._rollouts_place),
            outputs,
            closing(self._open_journal()) as self._journal,
        ):
            # How a step is summed must not depend on who has how much memory.
            tokens = self.peers.each(lambda: self.learner.tokens_per_batch)
            self.learner.tokens_per_batch = min(tokens)
            # Nodes' starts are then not needed again, and the untrained flow may be the best.
            begins = any(node.start for node in task.nodes) or bool(self.settings.evaluate.every)
            if begins and not self.peers.first(lambda: bool(checkpoints(self.run.checkpoints))):
                self._checkpoint()
            self.evaluations = self.peers.first(
                lambda: outputs.begin(self.position.batches, task.nodes, task.gate)
            )
            try:
                self._evaluate(outputs)  # where it stopped before that was done
                while self.position.episodes < len(self.order) and not self.ended_early:
                    self._batch(outputs)
                    self._evaluate(outputs)
            except Stop:
                self._checkpoint()
                raise Stopped(self.position) from None
            except Exception:
                self._keep_what_was_learned()
                raise
        self._check_failures(final=True)
        return self.progressive

    @property
    def ended_early(self) -> bool:
        """Whether the latest evaluations were no better, for as long as there is patience."""
        patience = self.settings.evaluate.patience
        return 0 < patience <= without_a_better(self.evaluations)

    def _evaluate(self, outputs: NoOutputs) -> None:
        """Evaluate the present checkpoint, if that is due and was not done yet."""
        episodes = self.position.episodes
        done = any(each.episodes == episodes for each in self.evaluations)
        if done or not is_due(episodes, len(self.order), self.settings):
            return
        self.on_phase("evaluate")
        report = evaluate(
            self.session,
            self.held_out,
            episodes=episodes,
            batch=self.position.batches,
            metric=self.evaluations[0].metric if self.evaluations else None,
            check=self._check,
            untrained=UntrainedResults(self.run.untrained_path),
            on_report=self.on_evaluation,
            peers=self.peers,
        )
        evaluation = report.evaluation
        assert evaluation is not None
        outputs.evaluation(evaluation)
        self.evaluations.append(evaluation)
        keep = self.settings.keep_checkpoints
        outputs.evaluation_is_safe(evaluation, keep, self._best, self._used())
        self.on_evaluation(replace(report, is_best=self._best == episodes))

    def _used(self) -> Usage:
        """What the run has taken so far, over all of its processes."""
        nodes = self.session.task.nodes
        each = self.peers.each(lambda: replace(used_so_far(), endpoints=all_spent(nodes)))
        return self._used_before.then(together(each))

    @property
    def _best(self) -> int | None:
        """The number of episodes of the best checkpoint."""
        best = best_of(self.evaluations)
        return None if best is None else best.episodes

    def _batch(self, outputs: NoOutputs) -> None:
        clock = _Clock(self.on_phase)
        begin = self.position.episodes
        batch = self.order[begin : begin + self._batch_size(begin)]
        adapters = self.session.adapters
        versions = {node: adapters.version(name) for node, name in adapters.owners.items()}

        with clock.phase("play and deviate"):
            self.session.engine.forget()
            deviating = self._deviating(batch)
            traces, recorded = deviating.traces()
        gaps = self._rollout_gaps()
        collected = collect(self.session.task.nodes, traces)
        if not self.position.batches:
            self.peers.first(partial(self._admit, traces, recorded))
        elif self.peers.rank == 0:
            self._tell_of_requests(traces)
        self._as_at_position = False
        self._count_failures(traces, deviating.played_by)
        for trace in traces:
            wins = greedy_wins(self.session.task, trace)
            self.progressive.add({**wins, **trace.episode.reward_means()})
        metrics = self._metrics()
        with clock.phase("learn"):
            updates = self.updating.learn(collected)
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
            rollout_gaps=gaps,
        )
        outputs.batch(record)
        self.position = replace(self.position, episodes=end, batches=self.position.batches + 1)
        if checkpoint:
            self._checkpoint()
        self._as_at_position = True
        outputs.batch_is_safe(record, end, self._used())
        self.on_report(Report(self.position.episodes, len(self.order), record, self.progressive))
        self._check_failures()

    @property
    def _rollouts_place(self) -> tuple[Path, str]:
        """Where this process writes adapters for servers that decode, and how these are named."""
        directory, label = self.run.path / "rollouts", self.run.path.name
        if self.peers.size == 1:
            return directory, label
        rank = f"rank-{self.peers.rank}"
        return directory / rank, f"{label}-{rank}"

    def _rollout_gaps(self) -> dict[str, float]:
        """By node, how far servers' log-probabilities are from ours, the most of any process."""
        rollouts = self.session.rollouts
        if rollouts is None:
            return {}
        own = {node: gap.present for node, gap in rollouts.watch.gaps().items()}
        each = self.peers.each(lambda: own)
        nodes = dict.fromkeys(node for gaps in each for node in gaps)
        return {node: max(gaps[node] for gaps in each if node in gaps) for node in nodes}

    def _deviating(self, batch: Sequence[Example]) -> Deviating:
        """What plays the batch; the first one is recorded, for its admission to play it again."""
        begin = self.position.episodes

        def on_episode(own: int) -> None:
            if own < len(batch):
                self.on_report(Report(begin + own, len(self.order), None, self.progressive))

        plays = [self._play(begin + place, example) for place, example in enumerate(batch)]
        return Deviating(
            self.session,
            plays,
            self.peers,
            check=self._check,
            on_episode=on_episode,
            records=not self.position.batches,
        )

    def _play(self, number: int, example: Example) -> Play:
        """An episode, with what is known of its effects since the newest checkpoint."""
        assert self._journal is not None
        kept = self._journal.episode(number)
        examples_a_pass = len(self.order) // self.settings.passes
        effects = Effects(kept.ends, kept.orders, kept)
        return Play(example, effects, number // examples_a_pass)

    def _admit(self, traces: Sequence[Trace], recorded: Sequence[Recorded]) -> None:
        """Look at the run's first mini-batch before anything is learned from it.

        Raises:
            Refused: the flow would learn nothing, or something wrong.
        """
        session = self.session
        self.on_phase("check the flow")
        limits = session.limits
        found = admit(session.task, traces, limits=limits, check=self._check, recorded=recorded)
        self._told.update((finding.code, finding.place) for finding in found)
        self.on_findings(found)

    def _tell_of_requests(self, traces: Sequence[Trace]) -> None:
        """Tell of requests that failed unnoticed in a later mini-batch, each kind of them once."""
        found = [
            finding
            for finding in in_order(list(request_findings(traces)))
            if (finding.code, finding.place) not in self._told
        ]
        self._told.update((finding.code, finding.place) for finding in found)
        if found:
            self.on_findings(found)

    def _check(self) -> None:
        """Called now and then during work; raises where that has to end."""
        if self.should_stop():
            raise Stopped(self.position)
        self.peers.check()

    def _open_journal(self) -> Journal:
        """The journal, with what any process has written before, however many there were."""
        path = self.run.journal_path
        self.peers.first(partial(merge_journals, path))
        journal = Journal(path, self.position.episodes, rank_journal(path, self.peers.rank))
        self.peers.each(lambda: None)  # nobody writes before all have read
        return journal

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
        self.peers.first(self._save_checkpoint)
        if self._journal is not None:
            self._journal.forget(self.position.episodes)

    def _keep_what_was_learned(self) -> None:
        """After an error, save a checkpoint of the last mini-batch that is whole, if all is so."""
        if self._as_at_position and self.position.batches and self.peers.rank == 0:
            # The first error is the one to tell: a full disk has no room for this, either.
            with suppress(FlowtuneError):
                self._save_checkpoint()

    def _save_checkpoint(self) -> None:
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

    def _count_failures(self, traces: Sequence[Trace], played_by: Sequence[set[int]]) -> None:
        for trace, ranks in zip(traces, played_by, strict=True):
            failures = trace.failures
            if failures:
                which = f"of example '{trace.example.id}'"
                if self.peers.size > 1:
                    which += f" on {' or '.join(self.peers.name(rank) for rank in sorted(ranks))}"
                self.last_failure = which, failures[-1]
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
                which, failure = self.last_failure
                last = f" The last one, {which}:\n{failure.traceback}"
            raise FlowtuneError(
                f"{failed} of {played} episodes and rollouts failed, more than"
                f" training.max_failures = {self.settings.max_failures} allows.{last}"
            )
