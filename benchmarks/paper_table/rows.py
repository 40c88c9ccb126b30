"""The rows of the paper's table for MuSiQue: each made of the one before it, and stored."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper_table.played import played_lines
from benchmarks.paper_table.table import FIGURES
from flowtune_cli.cli.postprocessors import explorations
from flowtune_cli.cli.predicting import write_predictions
from flowtune_cli.cli.stored_settings import describe, to_store
from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.postprocessing import PostProcessor, post_process
from flowtune_cli.flow.task import Task
from flowtune_cli.registry import Registry
from flowtune_cli.runs.atomic import read_json, write_json
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.prediction_reader import read_predictions
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.training.checkpoint import checkpoints, load_checkpoint
from flowtune_cli.training.loop import Report, Trainer
from flowtune_cli.training.session import Session, set_up

REWARDS = {"answer_f1": "answer_f1", "support_f1": "support_f1", "sufficiency": "sufficiency"}
"""The reward whose progressive validation is a figure of the table, by the figure's name."""

DEV_SEED = 665
"""Added to a seed for the pass over dev: the first is 666, as in the paper."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Treatments:
    """The rows of one task.

    Args:
        limit: examples of train to train on; 0 is all.
        dev_limit: examples of dev, of which pairs stay together; 0 is all.
    """

    registry: Registry
    task_name: str
    data: Path
    limit: int
    dev_limit: int
    overrides: Sequence[str]
    out: Path

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """The rows for a seed, each stored once it is known, or as it was stored."""
        label = f"seed-{seed}"
        # Fresh adapters change nothing: untrained, every seed plays the same.
        yield self._stored("untrained", "untrained", lambda: {"dev": self._untrained()})
        yield self._stored(
            "+ train on train",
            f"{label}-train",
            lambda: {"train": self._progressive(self._train(seed)), "dev": self._trained(seed)},
        )
        done: list[PostProcessor] = []
        for name in ("grounded", "pairwise"):
            processor = self.registry.postprocessor(name)()
            if self.task_name in processor.tasks:
                done.append(processor)
                chosen = tuple(done)
                yield self._stored(
                    f"+ {name}", f"{label}-{name}", lambda chosen=chosen: self._mended(seed, chosen)
                )
        yield self._stored(
            "+ train on dev", f"{label}-dev", lambda: {"dev": self._trained_on_dev(seed, done)}
        )

    def _stored(self, row: str, name: str, made: Any) -> dict[str, Any]:
        file = self.out / f"{name}.json"
        if not file.exists():
            say(f"{name}: {row}")
            write_json(file, {"row": row, **made()})
        stored: dict[str, Any] = read_json(file)
        return stored

    # The rows

    def _untrained(self) -> dict[str, Any]:
        return self._figures(self._predictions("untrained", None, seed=1))

    def _trained(self, seed: int) -> dict[str, Any]:
        return self._figures(self._predictions(f"seed-{seed}-train", self._train(seed), seed=seed))

    def _mended(self, seed: int, processors: Sequence[PostProcessor]) -> dict[str, Any]:
        lines = list(read_predictions(self._file(f"seed-{seed}-train")))
        return {"dev": self._figures(self._post_processed(lines, self._dev, processors))}

    def _trained_on_dev(self, seed: int, processors: Sequence[PostProcessor]) -> dict[str, Any]:
        """Each example's prediction is that of the episode from which it was then learned."""
        source = checkpoints(self._train(seed).checkpoints)[-1]
        run = self._train(seed, source)
        lines = played_lines(self._task(seed), self._dev, run)
        played = [example for example in self._dev if example.id in lines]
        failed = {example.record_id for example in self._dev if example.id not in lines}
        if failed:
            say(f"{len(failed)} ids are left out, since the flow failed for them in training")
            played = [example for example in played if example.record_id not in failed]
        in_order = [lines[example.id] for example in played]
        return self._figures(self._post_processed(in_order, played, processors), played)

    # What they are made of

    def _predictions(self, name: str, run: RunDirectory | None, seed: int) -> list[dict[str, Any]]:
        """Predictions of dev with scores and rollouts, from their file or played now."""
        file = self._file(name)
        if not file.exists():
            session = self._session(seed)
            made_by = "untrained"
            if run is not None:
                newest = checkpoints(run.checkpoints)[-1]
                load_checkpoint(
                    newest, adapters=session.adapters, learner=None, nodes=session.task.nodes
                )
                made_by = f"{run.path.name}, checkpoint {newest.name}"
            grounded = [self.registry.postprocessor("grounded")()] if run is not None else []
            say(f"{name}: predicting {len(self._dev)} examples of dev")
            write_predictions(
                session,
                self._dev,
                file,
                made_by=made_by,
                explorations=explorations(grounded, session.task, self.registry),
                processors=(),
                scores=True,
            )
        return list(read_predictions(file))

    def _train(self, seed: int, source: Path | None = None) -> RunDirectory:
        """The run on train, or from its checkpoint on dev: finished, gone on with or begun."""
        name = f"{self.task_name}-seed-{seed}" + ("-dev" if source else "")
        runs = self.out / "runs"
        run = RunDirectory(runs / name)
        if (run.path / "run.json").exists() and run.info.state == "finished":
            return run
        session = self._session(seed, dev=source is not None)
        split = "dev" if source else "train"
        task = session.task
        every = self._dev if source else task.examples(self.data, split)
        examples = list(task.training_examples(every, split))
        if not (run.path / "run.json").exists():
            resolved = dataclasses.replace(
                self._resolved(seed, dev=source is not None), settings=session.settings
            )
            data = describe(self.data, split, examples, resolved)
            run = RunDirectory.create(
                runs,
                name,
                task=self.task_name,
                model=resolved.settings.model.name,
                settings=to_store(resolved, None, source, data.stored),
                examples=data.digests,
            )
        with run.lock():
            trainer = Trainer(session, run, examples, on_report=_show(time.perf_counter()))
            if checkpoints(run.checkpoints):
                trainer.resume()
            elif source is not None:
                trainer.start_from(source)
            say(f"{name}: {trainer.position.episodes} of {len(trainer.order)} episodes are played")
            trainer.train()
            run.update(state="finished", episodes=len(trainer.order))
        return run

    def _resolved(self, seed: int, *, dev: bool = False) -> Any:
        return resolve(
            self.registry.task(self.task_name),
            environ=os.environ,
            overrides=self.overrides,
            flags={
                "training.seed": seed + (DEV_SEED if dev else 0),
                "training.limit": 0 if dev else self.limit,
                "run.directory": str(self.out / "runs"),
            },
            registry=self.registry,
        )

    def _task(self, seed: int) -> Task:
        task: Task = self._resolved(seed).make_task()
        return task

    def _session(self, seed: int, *, dev: bool = False) -> Session:
        resolved = self._resolved(seed, dev=dev)
        say(f"loading {resolved.settings.model.name}")
        return set_up(resolved.make_task(), resolved.settings, self.registry)

    @functools.cached_property
    def _dev(self) -> list[Example]:
        """The first examples of dev; an id's two stay or go together."""
        by_id: dict[str, list[Example]] = {}
        examples = list(self._task(1).examples(self.data, "dev"))
        for example in examples:
            by_id.setdefault(example.record_id, []).append(example)
        kept: set[str] = set()
        for group in by_id.values():
            if self.dev_limit and len(kept) >= self.dev_limit:
                break
            kept |= {example.id for example in group}
        return [example for example in examples if example.id in kept]

    def _file(self, name: str) -> Path:
        return self.out / f"{name}.jsonl"

    def _post_processed(
        self, lines: Any, examples: Sequence[Example], processors: Sequence[PostProcessor]
    ) -> Sequence[Mapping[str, Any]]:
        return post_process(processors, self._task(1), examples, lines, say)

    def _figures(
        self, lines: Sequence[Mapping[str, Any]], examples: Sequence[Example] | None = None
    ) -> dict[str, Any]:
        """Each figure of the table, with its interval."""
        found = self._task(1).evaluate(self._dev if examples is None else examples, lines)
        return {
            name: {"value": found[key], "interval": found["intervals"].get(key)}
            for name, key in FIGURES.items()
            if key in found
        }

    def _progressive(self, run: RunDirectory) -> dict[str, Any]:
        """Progressive validation over the whole run."""
        with RunReader(run.store_path) as reader:
            last = {name: points[-1].metric.overall for name, points in reader.metrics().items()}
        return {
            name: {"value": last[reward], "interval": None}
            for name, reward in REWARDS.items()
            if last.get(reward) is not None
        }


def _show(start: float) -> Any:
    def show(report: Report) -> None:
        if report.record is not None:
            seconds = time.perf_counter() - start
            say(f"  {report.episodes}/{report.total} episodes  {seconds:.0f} s")

    return show
