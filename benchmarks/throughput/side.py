"""One side of the comparison, in a process of its own: flowtune, or the plain baseline.

Both run the same loop over mini-batches: play and deviate, collect, learn. It is the trainer's
without what it writes to disk. A process of its own gives each side its own peak of memory; the
sides take turns, so that neither computes while the other is measured.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.throughput.meter import (
    PHASES,
    Figures,
    Meter,
    Watched,
    Work,
    needed_by_requests,
    prefixes,
)
from benchmarks.throughput.plain import PlainEngine, PlainLearner
from benchmarks.throughput.records import Setup, prepare
from flowtune_cli.cli.allocator import keep_freed_memory
from flowtune_cli.engine.likelihoods import Completion
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Datum, PreferenceDatum
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import DecodeRequest, Decoding, ScoreRequest
from flowtune_cli.learning.learner import Learner
from flowtune_cli.models.devices import dtype_name, matmul_gflops
from flowtune_cli.training.data import collect


class Side:
    """Plays and learns, and measures it.

    Args:
        setup: what is run.
        plain: the baseline in place of flowtune.
    """

    def __init__(self, setup: Setup, plain: bool) -> None:
        if plain:
            setup = setup.with_overrides("engine.in_flight=1")
        session, self.examples = prepare(setup, plain_weights=plain)
        self.fast = None if plain else session.engine
        self.tokens = session.engine.tokens
        self.learner: Learner = session.learner()
        self.completions = PlainLearner(self.learner, self.tokens).completions
        self.update: Any = self.learner.update
        engine: Any = session.engine
        if plain:
            tokens = session.engine.tokens
            engine = PlainEngine(session.adapters, tokens.tokenizer, tokens.context)
            self.update = PlainLearner(self.learner, engine.tokens).update
        self.watched = Watched(engine)
        self.watched.watch(session.task)
        self.session = dataclasses.replace(session, engine=self.watched)  # type: ignore[arg-type]
        self.meter = Meter(session.adapters.model)
        self._warm_up()

    def _warm_up(self) -> None:
        """What happens once in a process is not measured: late imports, threads, first products."""
        adapters = self.session.adapters
        prompt = Prompt((Message("user", (Segment("one two three " * 20),)),), chat=False)
        for groups in (1, 2):
            decoding = Decoding(groups=groups, diversity_penalty=1.0)
            self.watched.engine.answer([DecodeRequest(None, prompt, 3, decoding=decoding)])
        self.watched.engine.answer([ScoreRequest(None, ((prompt, ("four five six",)),))])
        self.watched.forget()
        for node in adapters.nodes[:1]:
            with adapters.using(node) as model:
                ids = torch.tensor([self.tokens.completion("one two three")], device=model.device)
                model(ids, use_cache=False).logits.sum().backward()
            for parameter in adapters.parameters(node):
                parameter.grad = None

    def predict(self, begin: int, end: int) -> Figures:
        """Play these records greedily."""
        return self._measure(begin, end, self._play)

    def train(self, begin: int, end: int) -> Figures:
        """Play these records as one mini-batch, deviate, and learn."""
        return self._measure(begin, end, self._explore)

    def _measure(self, begin: int, end: int, run: Any) -> Figures:
        examples = self.examples[begin:end]
        self.watched.seconds = dict.fromkeys(PHASES, 0.0)
        self.watched.log.clear()
        self.meter.work = Work()
        cpu = time.process_time()
        with self.watched.timed() as spent:
            self.watched.forget()
            traces, data = run(examples)
        cpu = time.process_time() - cpu
        work, phases = self.meter.work, dict(self.watched.seconds)
        if not work.tokens:
            raise RuntimeError("no forward pass was seen: the model's decoder is not called")
        phases["rest"] = spent[0] - sum(phases.values())
        log = self.watched.log
        decoded = [answer for _, answer in log if hasattr(answer, "generations")]
        return Figures(
            examples=len(examples),
            seconds=spent[0],
            cpu_seconds=cpu,
            phases=phases,
            forwards=work.forwards,
            tokens=work.tokens,
            flops=work.flops,
            needed=needed_by_requests(self.tokens, log, self._learned(data))
            + self._needed_by_learning(data),
            generated=sum(len(g.tokens) for answer in decoded for g in answer.generations),
            rollouts=sum(d.rollout is not None for t in traces for d in t.deviations),
            preferences=sum(len(trace.preferences) for trace in traces),
            peak_mb=peak_mb(),
        )

    def _play(self, examples: Sequence[Example]) -> tuple[list[Trace], dict[str, list[Datum]]]:
        episodes = dict(self.session.play(examples))
        check_episodes(episodes.values())
        return [], {}

    def _explore(self, examples: Sequence[Example]) -> tuple[list[Trace], dict[str, list[Datum]]]:
        found = dict(self.session.deviate(examples))
        traces = [found[position] for position in range(len(examples))]
        check_episodes(trace.episode for trace in traces)
        nodes = collect(self.session.task.nodes, traces)
        data = {name: of_node.data for name, of_node in nodes.items() if of_node.data}
        with self.watched.timed("learn"):
            if self.fast is not None:
                every = (datum for of_node in data.values() for datum in of_node)
                self.watched.forget(keep=self.learner.losses.frozen_prefixes(every))
            for name, of_node in data.items():
                self.update(name, {name: of_node})
        return traces, data

    def _learned(self, data: Mapping[str, Sequence[Datum]]) -> list[Completion]:
        every = [datum for of_node in data.values() for datum in of_node]
        return [completion for datum in every for completion in self.completions(datum)]

    def _needed_by_learning(self, data: Mapping[str, Sequence[Datum]]) -> int:
        each = self.learner.settings.step_per == "datum"
        total = 0
        for of_node in data.values():
            steps = [[datum] for datum in of_node] if each else [of_node]
            with_reference = [datum for datum in of_node if isinstance(datum, PreferenceDatum)]
            for part in (*steps, with_reference):
                total += prefixes(c for datum in part for c in self.completions(datum))
        return total

    def save(self, directory: Path) -> None:
        """Write adapters and optimizers, for the other side to ``load``."""
        self.session.adapters.save(directory / "adapters")
        self.learner.optimizers.save(directory / "optimizers")

    def load(self, directory: Path) -> None:
        self.session.adapters.load(directory / "adapters")
        self.learner.optimizers.load(directory / "optimizers")

    def about(self) -> dict[str, Any]:
        """The machine and the model; the peak is GFLOP/s of the model's dtype, best of several."""
        model = self.session.adapters.model
        peak = max(matmul_gflops(model.dtype, str(model.device), n) for n in (1024, 2048, 1024))
        return {
            "model": self.session.settings.model.name,
            "dtype": dtype_name(model.dtype),
            "device": str(model.device),
            "threads": torch.get_num_threads(),
            "peak_gflops": peak,
            "batch_size": self.session.settings.training.batch_size,
            "in_flight": self.session.settings.engine.in_flight,
            "records": len(self.examples),
        }


def peak_mb() -> float:
    """The peak of this process's memory in MB (the system counts kB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def check_episodes(episodes: Iterable[Episode]) -> None:
    """Raise if an episode failed: its record would seem to be done in no time."""
    for episode in episodes:
        if episode.failure is not None:
            raise RuntimeError(f"an episode failed:\n{episode.failure.traceback}")


_SIDE: Side | None = None


def begin(setup: Setup, plain: bool) -> None:
    """Set this process up as a side; flowtune's as ``flowtune`` sets itself up."""
    global _SIDE
    if not plain:
        keep_freed_memory()
    _SIDE = Side(setup, plain)


def call(method: str, *args: Any) -> Any:
    """Call a method of this process's side."""
    return getattr(_SIDE, method)(*args)
