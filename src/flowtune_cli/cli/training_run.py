"""Trains a run to its end or until it is stopped, and prints the results."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.resolve import FILE, Resolved
from ..config.settings import Settings
from ..flow.adapters import why_untrained
from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.task import Task
from ..learning.peers import ALONE, Peers
from ..registry import Registry
from ..runs.directory import RunDirectory, State
from ..runs.evaluations import evaluations_json, without_a_better
from ..runs.reader import RunReader
from ..runs.usage import used_text
from ..training.admission.examine import Refused
from ..training.admission.finding import Finding
from ..training.carry_over import carry_over
from ..training.checkpoint import checkpoints
from ..training.dry_run import expect
from ..training.loop import Stopped, Trainer
from ..training.other_models import spent_elsewhere
from ..training.session import Session, check_learning, set_up
from .alike import check_alike, load_alike
from .dry_run_text import print_expectation
from .interrupts import StopRequest
from .output import detail, note, print_json, print_rows, suggest, warn
from .phase import phase
from .progress import progress
from .run_lock import locked
from .training_text import (
    batch_text,
    best_of_fewer,
    best_text,
    early_end_text,
    evaluation_text,
    next_commands,
)


@dataclass(frozen=True)
class TrainingRun:
    """Everything that training a run needs.

    Args:
        held_out: the examples that checkpoints are evaluated on, if any.
        source: the checkpoint of another run to start from, if any.
        json: print the final metrics as JSON.
        peers: the processes that train it together; rank 0 writes it, and tells of it.
        renamed: by the name of a node, that which it has in ``source``, where it is another.
    """

    registry: Registry
    resolved: Resolved
    task: Task
    examples: list[Example]
    held_out: Sequence[Example]
    source: Path | None
    json: bool
    peers: Peers = ALONE
    renamed: Mapping[str, str] = field(default_factory=dict)

    def begin(self, create: Callable[[Resolved], RunDirectory]) -> int:
        """Train a new run, which ``create`` makes; returns the exit code.

        The run stores the dtype that "auto" chose, since a resume needs the same one.
        """
        session = self._set_up(self.source, self.renamed)
        resolved = dataclasses.replace(self.resolved, settings=session.settings)
        run = RunDirectory(self.peers.first(lambda: create(resolved).path))
        with locked(run, self.peers):
            note(f"training run '{run.path.name}' in {run.path}")
            try:
                return self._train(session, run, self._reference(run))
            except Refused:
                # Its settings or its flow have to be others, and its name may be wanted for that.
                run.discard()
                raise

    def expect(self) -> int:
        """Say what a new run is going to take, and make none; returns the exit code."""
        session = self._set_up(self.source, self.renamed)
        learner = session.learner()
        if self.source is not None:
            for line in carry_over(
                self.source, session.adapters, learner, self.task.nodes, self.renamed
            ):
                note(line)
        settings = session.settings.training
        note(f"playing and learning from the first {settings.batch_size} examples or fewer")
        found = expect(session, learner, self.examples, len(self.held_out))
        if self.json:
            print_json(dataclasses.asdict(found))
        else:
            print_expectation(found, settings.passes)
        note(
            f"expected from {found.tried} of {found.episodes} episodes, and roughly: outputs grow"
            " longer or shorter as the flow learns. Nothing was kept"
        )
        return 0

    def resume(self, run: RunDirectory, reference: str) -> int:
        """Resume a run that the caller has locked; returns the exit code."""
        saved = checkpoints(run.checkpoints)
        session = self._set_up(*((saved[-1], {}) if saved else (self.source, self.renamed)))
        return self._train(session, run, reference)

    def _set_up(self, checkpoint: Path | None, renamed: Mapping[str, str]) -> Session:
        settings = self.resolved.settings
        check_learning(self.task, settings, self.registry)
        for node in self.task.nodes:
            why = why_untrained(node)
            learn = self.resolved.origins.get(f"tasks.{self.task.name}.nodes.{node.name}.learn")
            if why is not None and not (learn and learn.rank):
                note(f"node '{node.name}' learns nothing: {why}")
        check_alike(self.peers, settings, (*self.examples, *self.held_out))

        def load(settings: Settings) -> Session:
            with phase(f"loading {settings.model.name}") as loading:
                return set_up(
                    self.task,
                    settings,
                    self.registry,
                    checkpoint,
                    renamed,
                    on_phase=loading.now,
                )

        session = load_alike(load, settings, self.peers)
        # Before there is a run, where a server is not there.
        self.peers.each(session.connect)
        return session

    def _train(self, session: Session, run: RunDirectory, reference: str) -> int:
        resume = self._resume_command(reference)
        try:
            trainer = Trainer(session, run, self.examples, held_out=self.held_out, peers=self.peers)
            if self.peers.first(lambda: bool(checkpoints(run.checkpoints))):
                trainer.resume()
                note(f"resuming after {trainer.position.episodes} of {len(trainer.order)} episodes")
            elif self.source is not None:
                for line in trainer.start_from(self.source, self.renamed):
                    note(line)
            engine = session.engine.prefixes.paths.text
            self._update(run, "training", episodes=trainer.position.episodes, engine=engine)
            display = progress(
                trainer.position.episodes, len(trainer.order), lambda: session.tally.calls
            )
            with display, StopRequest(display.stopping) as stop:
                self.peers.stopping = lambda: stop.requested
                trainer.on_report = lambda report: display.show(
                    report.episodes, batch_text(report.record), line=report.record is not None
                )
                trainer.on_evaluation = lambda report: display.show(
                    report.episodes, evaluation_text(report), line=report.evaluation is not None
                )
                trainer.should_stop = lambda: stop.requested
                trainer.on_findings = _warn_of
                trainer.on_phase = display.doing
                trainer.train()
            self._update(run, "finished", episodes=trainer.position.episodes)
        except Stopped as stopped:
            self._update(run, "stopped", episodes=stopped.position.episodes)
            note(f"stopped after {stopped.position.episodes} of {len(trainer.order)} episodes")
            suggest("Resume with", [resume])
            return 130
        except KeyboardInterrupt:
            note(f"interrupted. {_resume_hint(run)}\n  {resume}")
            raise
        except Refused:
            self._mark_failed(run)
            raise
        except FlowtuneError as error:
            self._mark_failed(run)
            # Not in its message, which other processes may be sent.
            error.how_to_go_on = f"{_resume_hint(run)}\n  {resume}"
            raise
        except Exception:
            self._mark_failed(run)
            note(f"run '{run.path.name}' failed. {_resume_hint(run)}\n  {resume}")
            raise
        if self.peers.rank:
            return 0
        _print_metrics(run, json=self.json)
        if self.peers.size == 1:  # else this is one process's share of what was asked
            for line in spent_elsewhere(self.task.nodes):
                note(line)
        note(f"run '{run.path.name}' is finished: {trainer.position.episodes} episodes")
        _note_evaluations(run)
        suggest("Next, try", next_commands(self.task, reference, run.settings["data"]))
        return 0

    def _update(self, run: RunDirectory, state: State, **more: Any) -> None:
        if self.peers.rank == 0:
            run.update(state=state, **more)

    def _mark_failed(self, run: RunDirectory) -> None:
        # On a full disk this fails too; the first error is the one to report.
        with suppress(FlowtuneError):
            self._update(run, "failed")

    def _reference(self, run: RunDirectory) -> str:
        """How later commands refer to the run: by its name, if they look in the same directory."""
        origin = self.resolved.origins["run.directory"]
        by_name = origin.layer in ("default", "environment") or origin.text == str(FILE)
        return run.path.name if by_name else str(run.path)

    def _resume_command(self, reference: str) -> str:
        command = f"flowtune train --resume {shlex.quote(reference)}"
        if self.resolved.origins["model.trust_remote_code"].layer == "command line":
            command += " --set model.trust_remote_code=true"
        return command


def report_finished(run: RunDirectory, *, json: bool, peers: Peers = ALONE) -> int:
    """Print the metrics of a run that is already finished."""
    if peers.rank:
        return 0
    _print_metrics(run, json=json)
    note(f"run '{run.path.name}' is finished: there is nothing left to train")
    _note_evaluations(run)
    return 0


def _note_evaluations(run: RunDirectory) -> None:
    """Say which checkpoint is the best, and whether patience has ended the run."""
    with RunReader(run.store_path) as reader:
        evaluations = reader.evaluations()
    patience = run.settings["settings"]["training"].get("evaluate", {}).get("patience", 0)
    if 0 < patience <= without_a_better(evaluations):
        note(early_end_text(evaluations))
    if text := best_text(evaluations, run.path.name):
        note(text)
    if text := best_of_fewer(evaluations):
        warn(text)


def _print_metrics(run: RunDirectory, *, json: bool) -> None:
    """Print a run's progressive validation: each reward's mean over all episodes."""
    with RunReader(run.store_path) as reader:
        last = {name: points[-1].metric for name, points in reader.metrics().items()}
        counts, nodes = reader.counts(), reader.node_summary()
        warnings = reader.learning_warnings()
        evaluations = reader.evaluations()
        timings = reader.timings()
    if json:
        counts_json: dict[str, Any] = dataclasses.asdict(counts)
        counts_json["rollouts"] = {outcome.value: n for outcome, n in counts.rollouts.items()}
        metrics = {
            name: {"overall": m.overall, "defined": m.defined, "undefined": m.undefined}
            for name, m in last.items()
        }
        print_json(
            {
                "run": run.path.name,
                "path": run.path,
                "metrics": metrics,
                "counts": counts_json,
                "evaluations": evaluations_json(evaluations),
                "warnings": [dataclasses.asdict(warning) for warning in warnings],
                "usage": run.info.usage.to_json(),
            }
        )
    else:
        print_rows(
            ["reward", "average", "defined", "undefined"],
            [
                {
                    "reward": name,
                    "average": "undefined" if m.overall is None else f"{m.overall:.4f}",
                    "defined": m.defined,
                    "undefined": m.undefined,
                }
                for name, m in last.items()
            ],
        )
    for name, seconds in timings.items():
        detail(f"{name} took {seconds:.1f} s in all")
    for warning in warnings:
        warn(warning.text)
    for number, what in (
        (counts.failed, "failed"),
        (counts.truncated, "had a truncated output"),
        (counts.shortened, "had a prompt that was shortened to fit the context"),
    ):
        if number:
            note(f"{number} of {counts.episodes} episodes {what}")
    note(f"it took {used_text(run.info.usage, nodes)}")


def _warn_of(findings: Sequence[Finding]) -> None:
    for finding in findings:
        place = f" ({finding.place})" if finding.place else ""
        warn(f"{finding.message}{place}. {finding.advice}")


def _resume_hint(run: RunDirectory) -> str:
    found = checkpoints(run.checkpoints)
    if not found:
        return "There is no checkpoint yet. Start the run again with:"
    return f"The newest checkpoint is after {int(found[-1].name)} episodes. Resume from it with:"
