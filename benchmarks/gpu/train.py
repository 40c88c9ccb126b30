"""The bundled model trained for a number of seconds, in large mini-batches.

On MuSiQue where its files are there, else on ToyQA, whose questions are generated.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from flowtune_cli.config.resolve import resolve
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.testing import make_tiny_model
from flowtune_cli.training.loop import Report, Stopped, Trainer
from flowtune_cli.training.session import set_up

TO_END = 12.0
"""Seconds that are left for the last checkpoint and the results."""

DATA = "FLOWTUNE_MUSIQUE_DATA"


def run(result: Result, options: Options) -> None:
    batch = 2 if options.tiny else 64
    train(
        result,
        options,
        [
            f"training.batch_size={batch}",
            f"engine.in_flight={batch}",
            f"model.dtype={'float32' if options.tiny else 'bfloat16'}",
        ],
        until=options.seconds - TO_END,
    )


def train(
    result: Result,
    options: Options,
    overrides: Sequence[str],
    *,
    until: float,
    batches: int | None = None,
) -> None:
    """Train, and note what came of it after every mini-batch.

    Args:
        until: seconds from the stage's start after which training stops.
        batches: stop after so many mini-batches; None is until the time is up.
    """
    registry = load_registry()
    folder = os.environ.get(DATA)
    data = Path(folder) if folder and not options.tiny else None
    name = "musique-answerable" if data else "toyqa"
    if not data:
        result.add(data="ToyQA, as MuSiQue's files are not there")
    model = []
    if options.tiny:
        tiny = make_tiny_model(options.state / "tiny-model", context=2048)
        model = [f"model.name={tiny}"]
        batches = 1
    resolved = resolve(
        registry.task(name),
        environ={},
        overrides=[f"model.device={options.device}", *model, *overrides],
        registry=registry,
    )
    task = resolved.make_task()
    session = set_up(task, resolved.settings, registry)
    split = task.splits[0]
    examples = list(task.training_examples(task.examples(data, split), split))
    loaded = time.perf_counter() - result.start
    limits = session.engine.limits
    result.add(
        task=name,
        model=session.settings.model.name,
        dtype=session.settings.model.dtype,
        quantization=session.settings.model.quantization,
        run_by=session.engine.prefixes.paths.text,
        tokens_per_batch=limits.tokens_per_batch,
        learning_tokens_per_batch=limits.learning_tokens_per_batch,
        prefix_cache_mb=limits.prefix_cache_bytes // 2**20,
        batch_size=session.settings.training.batch_size,
        seconds_to_load=round(loaded, 1),
    )
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    directory = RunDirectory.create(
        Path(tempfile.mkdtemp(dir=options.state)),
        "run",
        task=name,
        model=session.settings.model.name,
        settings=session.settings.model_dump(mode="json"),
    )
    noted = _Noted(result, options)

    def should_stop() -> bool:
        enough = batches is not None and len(noted.batches) >= batches
        return enough or time.perf_counter() - result.start > until

    trainer = Trainer(session, directory, examples, on_report=noted, should_stop=should_stop)
    noted.start = time.perf_counter()
    with suppress(Stopped):
        trainer.train()
    if not noted.batches:
        result.fail("mini-batches", f"none ended in time; {noted.episodes} episodes were played")


class _Noted:
    """Notes what each mini-batch came to."""

    def __init__(self, result: Result, options: Options) -> None:
        self.result = result
        self.options = options
        self.start = 0.0
        self.episodes = 0
        self.finite = True
        self.batches: list[dict[str, Any]] = []

    def __call__(self, report: Report) -> None:
        self.episodes = report.episodes
        record = report.record
        if record is None:
            return
        seconds = time.perf_counter() - self.start
        learned = [update for update in record.updates if update.loss is not None]
        numbers = [
            value
            for update in learned
            for value in (update.loss, update.margin, update.gradient_norm)
            if value is not None
        ]
        row: dict[str, Any] = {
            "mini-batch": record.batch,
            "episodes": report.episodes,
            "data learned from": sum(update.data for update in record.updates),
            "mean loss": _mean([update.loss for update in learned]),
            "mean gradient norm": _mean([update.gradient_norm for update in learned]),
            **{name: metric.overall for name, metric in record.metrics.items()},
            **{f"s to {phase}": round(value, 2) for phase, value in record.timings.items()},
        }
        self.batches.append(row)
        finite = all(map(math.isfinite, numbers))
        self.finite = self.finite and finite
        if not finite:
            self.result.fail(f"mini-batch {record.batch}", f"figures are not finite: {numbers}")
        if learned and not any(update.gradient_norm for update in learned):
            self.result.fail(f"mini-batch {record.batch}", "no gradient has arrived")
        memory = {}
        if self.options.device == "cuda":
            memory["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        self.result.add(
            episodes=report.episodes,
            episodes_a_minute=round(60 * report.episodes / seconds, 1),
            losses_finite=self.finite,
            mini_batches=self.batches,
            **memory,
        )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
