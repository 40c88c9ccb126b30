"""What the ranks of tests do: see ``rank_workers``. Also run with ``ALONE``, in the test itself."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flowtune_cli.cli import predicting
from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.learning.peers import Peers, Stop
from flowtune_cli.nodes import Feature, Judge, Rank
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.training import ranks, signs_of_life
from flowtune_cli.training.loop import Stopped, Trainer
from support.fake_engine import digest, writer
from support.short_memory import short_of_memory
from support.tiny_training import Run, Urn, adapters_of


def kinds_of_nodes() -> list[Node]:
    """Every way to learn: from preferences, from labels, a head's, by itself, and none."""
    return [
        writer("draft", "draft", alternatives=2, max_new_tokens=4),
        writer("wild", "end", exploration="multi_sample", max_new_tokens=3),
        Judge(name="judge", prompt=Template("{x}", chat=False), learn="supervised"),
        Rank(
            name="rank",
            prompt=Template("Rank {x}: {candidate}", chat=False),
            features=(Feature("length", lambda inputs: digest(inputs["candidate"]) % 3 - 1),),
            learn="supervised",
        ),
        Urn(reward="end"),
        writer("rare", "rare", alternatives=2, max_new_tokens=3),
        writer("idle", "never", max_new_tokens=2),
    ]


async def flow(episode: Any, example: Example) -> dict[str, Any]:
    """Rewards are digests of what was written; one example in four asks the node 'rare'."""
    draft = await episode.call("draft", x=example.question)
    episode.reward("draft", digest(draft) % 5 / 4)
    good = await episode.call("judge", x=draft)
    episode.target("judge", digest(example.id) % 2 == 0)
    options = [f"{example.question} {number}" for number in range(3)]
    await episode.call("rank", x=draft, candidates=options)
    episode.target("rank", options[:1])
    if example.gold % 4 == 1:
        rare = await episode.call("rare", x=example.question)
        episode.reward("rare", digest(rare) % 3)
    colour = await episode.call("urn", x=good)
    wild = await episode.call("wild", x=draft)
    if example.gold % 7 == 3:
        raise RuntimeError("this example fails")
    await episode.call("idle", x="always the same")
    value = digest(wild) % 3 + (colour == "blue")
    episode.reward("end", None if example.gold % 5 == 0 else value)
    return {"draft": draft, "good": good}


def readers() -> list[Node]:
    """Nodes that read documents with their adapters off."""
    shown = Template(" is it?", frozen_prefix="{x}.", chat=False)
    return [Judge(name=name, prompt=shown, learn="supervised") for name in ("reader", "again")]


async def reading(episode: Any, example: Example) -> Any:
    """Documents of unlike lengths are read in other batches where fewer examples are played."""
    for node in ("reader", "again"):
        await episode.call(node, x=f"{example.question} " * (3 + example.gold))
        episode.target(node, example.gold % 2 == 0)
    episode.reward("end", 1.0)
    return {}


class Short(NamedTuple):
    """A process that has no memory for so many layers in a phase of a mini-batch."""

    rank: int
    batch: int
    phase: str
    times: int

    def begins(self, trainer: Trainer, phases: Sequence[str]) -> bool:
        return (trainer.position.batches, phases[-1]) == (self.batch, self.phase)


def make_run(model: ModelSettings, parent: Path, name: str, **more: Any) -> Run:
    """A run that rank 0 or a test makes; the others open it."""
    more = {"flow": flow, "nodes": kinds_of_nodes, "max_failures": 1.0, **more}
    return Run(model, parent, name, **more)


def train(
    peers: Peers,
    model: ModelSettings,
    parent: Path,
    name: str,
    *,
    stop_in_batch: int | None = None,
    tokens: int | None = None,
    not_finite_on: int | None = None,
    short_of: Sequence[Short] = (),
    effects: Path | None = None,
    documents: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Train a run, or go on with it; what this process then holds.

    Args:
        stop_in_batch: the last rank is asked to stop while it plays that batch.
        tokens: of a part that is learned from at once.
        not_finite_on: the rank whose losses are not finite.
        short_of: where memory runs out.
        effects: a file to which each effect adds the id of its example.
        documents: whether the nodes read documents with their adapters off, and nothing else.
    """
    if documents:
        more = {**more, "flow": reading, "nodes": readers}
    if effects is not None:
        more = {**more, "flow": partial(flow_with_effects, effects), "nodes": kinds_of_nodes}
    path = peers.first(lambda: _directory(model, parent, name, **more))
    run = OpenRun(model, path, **more)
    last = peers.rank == peers.size - 1

    def should_stop() -> bool:
        batch = trainer.position.batches
        asked.append(batch)
        return last and batch == stop_in_batch and asked.count(batch) > 2

    asked: list[int] = []
    phases = [""]
    trainer = run.trainer(peers=peers, should_stop=should_stop, on_phase=phases.append)
    if tokens is not None:
        trainer.learner.tokens_per_batch = tokens
    if not_finite_on == peers.rank:
        trainer.learner.losses._loss = lambda *_: (torch.tensor(math.nan), None)  # type: ignore
    stopped = False
    with ExitStack() as stack:
        for short in short_of:
            if short.rank == peers.rank:
                now = partial(short.begins, trainer, phases)
                stack.enter_context(short_of_memory(short.times, now))
        try:
            trainer.train()
        except Stopped:
            stopped = True
    adapters = trainer.session.adapters
    return {
        "adapters": {n: [w.numpy() for w in ws] for n, ws in adapters_of(trainer).items()},
        "optimizers": {name: trainer.learner.optimizers.state(name) for name in adapters.names},
        "versions": dict(adapters.versions),
        "position": trainer.position,
        "progressive": trainer.progressive,
        "nodes": {n.name: n.state() for n in trainer.session.task.nodes if isinstance(n, Urn)},
        "evaluations": trainer.evaluations,
        "stopped": stopped,
    }


def predict(
    peers: Peers,
    model: ModelSettings,
    parent: Path,
    name: str,
    *,
    chunk: int,
    stop_on: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Predict 8 examples, ``chunk`` of each process at a time; what this process then knows.

    Args:
        stop_on: a rank, and by which of its examples it gets a SIGTERM.
    """
    played: list[str] = []
    partial = parent / f"{name}.jsonl.partial"

    async def run_flow(episode: Any, example: Example) -> Any:
        if not episode.is_rollout:
            played.append(example.id)
            if (peers.rank, len(played)) == stop_on:
                while not partial.stat().st_size:  # rank 0 has its first line
                    time.sleep(0.01)
                signal.raise_signal(signal.SIGTERM)
        return {"draft": await episode.call("draft", x=example.question)}

    path = peers.first(
        lambda: _directory(model, parent, f"run-{name}", flow=run_flow, engine={"in_flight": 1})
    )
    run = OpenRun(model, path, flow=run_flow, engine={"in_flight": 1})
    predicting._CHUNK = chunk
    stopped = False
    try:
        predicting.write_predictions(
            run.session(),
            run.examples,
            parent / f"{name}.jsonl",
            made_by="a test",
            explorations={},
            processors=(),
            scores=False,
            peers=peers,
        )
    except Stop:
        stopped = True
    return {"played": played, "stopped": stopped}


async def flow_with_effects(file: Path, episode: Any, example: Example) -> Any:
    """Each example has an effect that must not run twice, then asks its nodes."""

    def note(question: str) -> str:
        with file.open("a") as out:
            out.write(question.replace(" ", "-") + "\n")
        return question[::-1]

    noted = await episode.effect(note, example.question)
    draft = await episode.call("draft", x=noted)
    for _ in range(3):
        draft = await episode.call("idle", x=draft)
    episode.reward("draft", digest(draft) % 5 / 4)
    episode.reward("end", 1.0)
    return draft


# Without a model


def fail_on(peers: Peers, rank: int) -> None:
    def work() -> None:
        if peers.rank == rank:
            raise FlowtuneError("no luck")

    peers.each(lambda: None)
    peers.each(work)


def fail_while_others_work(peers: Peers, rank: int) -> None:
    def work() -> None:
        if peers.rank == rank:
            raise ValueError("unlucky")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            peers.check()
            time.sleep(0.01)

    begin = time.monotonic()
    try:
        peers.each(work)
    finally:
        assert time.monotonic() - begin < 15


def give_a_lambda(peers: Peers, rank: int) -> None:
    peers.each(lambda: (lambda: None) if peers.rank == rank else None)


def dawdle(peers: Peers, rank: int) -> None:
    def work() -> None:
        if peers.rank == rank:
            time.sleep(4)

    peers.each(work)
    raise AssertionError("nobody was missed")


def fail_before_the_sum(peers: Peers, rank: int) -> None:
    """It does not come to where data go round, and the others wait there."""
    peers.each(lambda: None)
    if peers.rank == rank:
        raise FlowtuneError("no memory")
    begin = time.monotonic()
    try:
        peers.total(torch.zeros(100_000))
    finally:
        assert time.monotonic() - begin < 8


def freeze(peers: Peers, rank: int) -> None:
    """It lives, but neither goes on nor answers."""
    signs_of_life.SILENCE_SECONDS = 2.0
    peers.each(lambda: None)
    if peers.rank == rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    peers.each(lambda: None)


def die_before_the_sum(peers: Peers, rank: int) -> None:
    """All have met, so that the others wait for data alone."""
    ranks.SILENCE_WHEN_STOPPING_SECONDS = signs_of_life.SILENCE_WHEN_STOPPING_SECONDS = 2.0
    peers.each(lambda: None)
    if peers.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    peers.total(torch.zeros(100_000))


def stop_on(peers: Peers, rank: int) -> str:
    def work() -> None:
        if peers.rank == rank:
            raise Stop

    try:
        peers.each(work)
    except Stop:
        return "stopped"
    return "went on"


def exchange(peers: Peers) -> list[Any]:
    assert peers.first(lambda: peers.rank) == 0
    total = peers.total(torch.tensor([1.0, float(peers.rank)], dtype=torch.float64))
    assert total.tolist() == [3.0, 3.0]
    return peers.each(lambda: [peers.rank, "x" * 1_000_000 * peers.rank])


def _directory(model: ModelSettings, parent: Path, name: str, **more: Any) -> Path:
    path = parent / name
    return path if path.exists() else make_run(model, parent, name, **more).directory.path


class OpenRun(Run):
    """A run whose directory is there."""

    def __init__(self, model: ModelSettings, path: Path, **more: Any) -> None:
        create = RunDirectory.create
        RunDirectory.create = classmethod(lambda *a, **k: RunDirectory(path))  # type: ignore
        try:
            more = {"flow": flow, "nodes": kinds_of_nodes, "max_failures": 1.0, **more}
            super().__init__(model, path.parent, path.name, **more)
        finally:
            RunDirectory.create = create  # type: ignore
