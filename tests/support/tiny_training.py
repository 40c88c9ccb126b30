"""A run on the tiny model: a task whose rewards depend on each letter, and its trainer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowtune_cli.config.settings import ModelSettings, Settings
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Call, Node, NodeOutput, Response, SelfLearning
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Judge
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.training.evaluation import EvaluationReport
from flowtune_cli.training.loop import Report, Trainer
from flowtune_cli.training.session import Session, set_up
from support.fake_engine import Flow, FlowTask, digest, writer
from support.tiny import state


class Urn(Node, SelfLearning):
    """A node with a model of its own: it likes the colour that was better more often."""

    kind = "urn"
    uses_adapter = False

    def __init__(self, name: str = "urn", **more: Any) -> None:
        super().__init__(name=name, **more)
        self.likes = {"red": 0.0, "blue": 0.0}

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return str(inputs["x"])

    async def respond(self, call: Call) -> Response:
        ordered = sorted(self.likes, key=lambda colour: -self.likes[colour])
        outputs = tuple(NodeOutput(value=colour, text=colour) for colour in ordered)
        return Response(
            self.prompt_text(call.inputs), outputs if call.wants_alternatives else outputs[:1]
        )

    def target_data(self, response: Response, gold: Any) -> list[Any]:
        return []

    def update(self, preferences: Sequence[Any], targets: Sequence[Any]) -> float:
        for preference in preferences:
            self.likes[preference.chosen.value] += preference.margin
        return float(len(preferences))

    def state(self) -> Mapping[str, Any]:
        return dict(self.likes)

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.likes = dict(state)


def letters_nodes() -> list[Node]:
    """Learning from preferences, with and without samples, supervised, by itself, and not."""
    return [
        writer("draft", "draft", alternatives=2, max_new_tokens=4),
        writer("wild", "end", exploration="multi_sample", max_new_tokens=3),
        Judge(name="judge", prompt=Template("{x}", chat=False), learn="supervised"),
        Urn(reward="end"),
        writer("idle", "never", max_new_tokens=2),
    ]


async def letters(episode: Episode, example: Example) -> dict[str, Any]:
    """Rewards are digests of what was written; 'end' is undefined for every fifth example."""
    draft = await episode.call("draft", x=example.question)
    episode.reward("draft", digest(draft) % 5 / 4)
    good = await episode.call("judge", x=draft)
    episode.target("judge", digest(example.id) % 2 == 0)
    colour = await episode.call("urn", x=good)
    wild = await episode.call("wild", x=draft)
    await episode.call("idle", x="always the same")
    value = digest(wild) % 3 + (colour == "blue")
    episode.reward("end", None if example.gold % 5 == 0 else value)
    return {"draft": draft, "good": good}


def examples(count: int) -> list[Example]:
    return [Example(f"e{n}", {"question": f"question {n}"}, gold=n) for n in range(count)]


class Run:
    """A run directory with a session; a trainer can be made in it again and again.

    Each trainer has a session of its own, as if its process were a new one.
    """

    def __init__(
        self,
        model: ModelSettings,
        parent: Path,
        name: str = "run",
        *,
        flow: Flow = letters,
        nodes: Callable[[], list[Node]] = letters_nodes,
        gate: str | None = "end",
        count: int = 8,
        held_out: int = 0,
        engine: Mapping[str, Any] | None = None,
        learning: Mapping[str, Any] | None = None,
        adapter: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> None:
        self.settings = Settings.model_validate(
            {
                "model": model,
                "adapter": {"rank": 2, **(adapter or {})},
                "engine": dict(engine or {}),
                # Large steps, so that every update changes what is written.
                "learning": {"optimizer": {"name": "cocob", "alpha": 2.0}, **(learning or {})},
                "training": {"batch_size": 2, "save_every": 4, **training},
            }
        )
        self.flow, self.nodes, self.gate = flow, nodes, gate
        self.examples = examples(count)
        self.held_out = [replace(each, id=f"held-out-{each.id}") for each in examples(held_out)]
        self.directory = RunDirectory.create(
            parent, name, task="flow", model="tiny", settings=self.settings.model_dump(mode="json")
        )
        self.reports: list[Report] = []
        self.evaluations: list[EvaluationReport] = []

    def session(self) -> Session:
        task = FlowTask(self.nodes(), self.flow)
        task.gate = self.gate  # type: ignore[misc]
        return set_up(task, self.settings, load_registry())

    def trainer(self, **more: Any) -> Trainer:
        trainer = Trainer(
            self.session(),
            self.directory,
            self.examples,
            held_out=self.held_out,
            **{
                "on_report": self.reports.append,
                "on_evaluation": self.evaluations.append,
                **more,
            },
        )
        trainer.resume()
        return trainer

    def train(self, **more: Any) -> Trainer:
        trainer = self.trainer(**more)
        trainer.train()
        return trainer

    @property
    def records(self) -> list[Any]:
        """Those of the batches that have ended."""
        return [report.record for report in self.reports if report.record is not None]


def adapters_of(trainer: Trainer) -> dict[str, list[Any]]:
    """A copy of every adapter's weights."""
    adapters = trainer.session.adapters
    return {name: state(adapters, name) for name in adapters.versions}


def selected(run: Run, query: str) -> list[Any]:
    """Rows of the run's store."""
    connection = sqlite3.connect(run.directory.store_path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def written(episode: Episode) -> list[Any]:
    """What each node was shown and answered."""
    return [(step.node, step.prompt_text, step.output.value) for step in episode.steps]
