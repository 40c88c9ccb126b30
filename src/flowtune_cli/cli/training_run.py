"""Trains a run to its end, or until it is stopped, and says what came of it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..config.resolve import FILE, Resolved
from ..flow.errors import FlowtuneError
from ..flow.example import Example
from ..flow.task import Task
from ..registry import Registry
from ..runs.directory import RunDirectory
from ..runs.reader import RunReader
from ..training.checkpoint import checkpoints
from ..training.loop import Stopped, Trainer
from ..training.session import Session, set_up
from .interrupts import StopRequest
from .output import note, print_json, print_rows
from .progress import progress
from .training_text import commands, figures


@dataclass(frozen=True)
class TrainingRun:
    """All that a run is trained with.

    Args:
        source: the checkpoint of another run that it begins with, if any.
        json: how the figures are printed in the end.
    """

    registry: Registry
    resolved: Resolved
    task: Task
    examples: list[Example]
    source: Path | None
    json: bool

    def begin(self, create: Callable[[Resolved], RunDirectory]) -> int:
        """Train a new run, which ``create`` makes; returns the exit code.

        It stores the dtype that "auto" came to: it would not go on exactly with another one.
        """
        session = self._set_up()
        run = create(dataclasses.replace(self.resolved, settings=session.settings))
        with run.lock():
            note(f"this is run '{run.path.name}', in {run.path}")
            return self._train(session, run, self._reference(run))

    def go_on(self, run: RunDirectory, reference: str) -> int:
        """Train an older run, whose lock is held; returns the exit code."""
        return self._train(self._set_up(), run, reference)

    def _set_up(self) -> Session:
        note(f"loading {self.resolved.settings.model.name}")
        return set_up(self.task, self.resolved.settings, self.registry)

    def _train(self, session: Session, run: RunDirectory, reference: str) -> int:
        resume = self._resume_command(reference)
        try:
            trainer = Trainer(session, run, self.examples)
            if checkpoints(run.checkpoints):
                trainer.resume()
                note(f"going on after {trainer.position.episodes} of {len(trainer.order)} episodes")
            elif self.source is not None and not trainer.start_from(self.source):
                note("the optimizers begin anew: the checkpoint has none of this kind")
            run.update(state="training", episodes=trainer.position.episodes)
            shown = progress(trainer.position.episodes, len(trainer.order))
            with shown, StopRequest(shown.stopping) as stop:
                trainer.on_report = lambda report: shown.show(
                    report.episodes, figures(report.record), line=report.record is not None
                )
                trainer.should_stop = lambda: stop.asked
                trainer.train()
            run.update(state="finished", episodes=trainer.position.episodes)
        except Stopped as stopped:
            run.update(state="stopped", episodes=stopped.position.episodes)
            note(f"stopped after {stopped.position.episodes} of {len(trainer.order)} episodes")
            typer.echo(f"Go on with:\n  {resume}", err=True)
            return 130
        except KeyboardInterrupt:
            note(f"interrupted. {_where_to_go_on(run)}\n  {resume}")
            raise
        except FlowtuneError as error:
            _mark_failed(run)
            raise type(error)(f"{error}\n{_where_to_go_on(run)}\n  {resume}") from error
        except Exception:
            _mark_failed(run)
            note(f"run '{run.path.name}' failed. {_where_to_go_on(run)}\n  {resume}")
            raise
        _say_figures(run, json=self.json)
        note(f"run '{run.path.name}' is finished: {trainer.position.episodes} episodes")
        typer.echo("Next, try:", err=True)
        for command in commands(self.task, reference, run.settings["data"]):
            typer.echo(f"  {command}", err=True)
        return 0

    def _reference(self, run: RunDirectory) -> str:
        """How a later command finds the run: by its name, if it looks in the same place."""
        origin = self.resolved.origins["run.directory"]
        by_name = origin.layer in ("default", "environment") or origin.text == str(FILE)
        return run.path.name if by_name else str(run.path)

    def _resume_command(self, reference: str) -> str:
        command = f"flowtune train --resume {shlex.quote(reference)}"
        if self.resolved.origins["model.trust_remote_code"].layer == "command line":
            command += " --set model.trust_remote_code=true"
        return command


def say_finished(run: RunDirectory, *, json: bool) -> int:
    """Print the figures of a run that there is nothing left to do for."""
    _say_figures(run, json=json)
    note(f"run '{run.path.name}' is finished: there is nothing to go on with")
    return 0


def _say_figures(run: RunDirectory, *, json: bool) -> None:
    """Print the progressive validation of a run: each reward's average over all its episodes."""
    with RunReader(run.store_path) as reader:
        last = {name: points[-1].metric for name, points in reader.metrics().items()}
        counts = reader.counts()
    if json:
        about: dict[str, Any] = dataclasses.asdict(counts)
        about["rollouts"] = {outcome.value: n for outcome, n in counts.rollouts.items()}
        metrics = {
            name: {"overall": m.overall, "defined": m.defined, "undefined": m.undefined}
            for name, m in last.items()
        }
        print_json({"run": run.path.name, "path": run.path, "metrics": metrics, "counts": about})
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
    for number, what in (
        (counts.failed, "failed"),
        (counts.truncated, "had an output that was cut off"),
        (counts.shortened, "had a prompt that was cut to fit"),
    ):
        if number:
            note(f"{number} of {counts.episodes} episodes {what}")


def _where_to_go_on(run: RunDirectory) -> str:
    found = checkpoints(run.checkpoints)
    if not found:
        return "There is no checkpoint yet; this begins the run anew:"
    return f"The newest checkpoint is after {int(found[-1].name)} episodes; go on from there with:"


def _mark_failed(run: RunDirectory) -> None:
    # Where the disk is full this fails too, and what failed first is what matters.
    with suppress(FlowtuneError):
        run.update(state="failed")
