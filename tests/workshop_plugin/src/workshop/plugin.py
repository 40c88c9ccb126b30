"""What the plugin brings: node types, a strategy, an evaluator, an optimizer, and so on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flowtune_cli import (
    Ask,
    Decoding,
    Episode,
    Evaluator,
    Example,
    Exploration,
    FlowtuneError,
    Node,
    Prompt,
    Scored,
    ScoreRequest,
    Task,
    Template,
    TrackedRun,
    Tracker,
    TrackerFactory,
    hookimpl,
)

from .nodes import Pick, Vote

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Wild(Exploration):
    """The greedy text, a diverse second one, and hot samples."""

    name: ClassVar[str] = "wild"

    temperature: float = 2.0

    def decoding(self, alternatives: int) -> Decoding:
        return Decoding(
            groups=2,
            diversity_penalty=5.0,
            samples=max(alternatives - 1, 0),
            temperature=self.temperature,
        )


@dataclass(frozen=True)
class LikelierAnswer:
    """An evaluator: the episode whose answer the base model finds likelier after the question."""

    name: ClassVar[str] = "likelier_answer"

    async def compare(
        self, ask: Ask, task: Task, example: Example, first: Episode, second: Episode
    ) -> float | None:
        if first.failure is not None or second.failure is not None:
            return None
        answers = tuple(f" {episode.result['answer']}" for episode in (first, second))
        prompt = self._prompt(task.question_text(example))
        scored: Scored = await ask(ScoreRequest(None, ((prompt, answers),)))
        (before, after) = scored.likelihoods[0]
        return after.mean - before.mean

    def _prompt(self, question: str) -> Prompt:
        return Template("{question}:", chat=False).render({"question": question}, node=self.name)


def brevity(answer: str) -> float:
    """A reward: 1 for an empty answer, and less the longer it is."""
    return 1.0 / (1.0 + len(answer))


def momentum(
    parameters: Iterable[torch.nn.Parameter], lr: float = 1e-2, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate.
        momentum: how much of the last step is taken again.
    """
    from torch import optim

    return optim.SGD(parameters, lr=lr, momentum=momentum)


class JsonLines:
    """A tracker: a line of JSON for each mini-batch, in RUN/metrics.jsonl."""

    def __init__(self, run: TrackedRun) -> None:
        self._file = (run.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._header = {"run": run.id, "task": run.task, "seed": run.settings["training"]["seed"]}

    def log(self, episodes: int, metrics: Mapping[str, float]) -> None:
        line = {**self._header, "episodes": episodes, **metrics}
        print(json.dumps(line), file=self._file, flush=True)

    def close(self) -> None:
        self._file.close()


class Workshop(Task):
    """Pick a style, then vote on an answer in that style."""

    name = "workshop"
    summary = "one of each thing that a plugin can bring"
    gate = "brevity"
    nodes: Sequence[Node] = [
        Pick(name="style", reward="brevity"),
        Vote(
            name="answer",
            prompt=Template("In a {style} way: {question}", chat=False, truncate=("question",)),
            evaluator="likelier_answer",
            exploration="wild",
            alternatives=2,
        ),
    ]
    QUESTIONS: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("What is wood?", "What is a saw?", "Who planes?", "Why glue?"),
        "dev": ("What is a nail?",),
    }

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        for number, question in enumerate(self.QUESTIONS[split]):
            yield Example(f"{split}-{number}", {"question": question}, gold="any")

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        style = await episode.call("style")
        answer = await episode.call("answer", style=style, question=example.question)
        episode.reward("brevity", brevity(answer))
        return {"style": style, "answer": answer}


def questions(split: str = "train") -> None:
    """Print the questions of the workshop."""
    if split not in Workshop.QUESTIONS:
        raise FlowtuneError(f"there is no split '{split}'; try {', '.join(Workshop.QUESTIONS)}")
    for question in Workshop.QUESTIONS[split]:
        print(question)


# Type checkers prove here that these are what flowtune asks for.
EVALUATOR: Evaluator = LikelierAnswer()
TRACKER: type[Tracker] = JsonLines


@hookimpl
def register_tasks(register: Callable[[type[Task]], None]) -> None:
    register(Workshop)


@hookimpl
def register_node_types(register: Callable[[type[Node]], None]) -> None:
    register(Vote)
    register(Pick)


@hookimpl
def register_explorations(register: Callable[[type[Exploration]], None]) -> None:
    register(Wild)


@hookimpl
def register_rewards(register: Callable[[Any], None]) -> None:
    register(brevity)
    register(LikelierAnswer)


@hookimpl
def register_optimizers(register: Callable[[str, Callable[..., Any]], None]) -> None:
    register("momentum", momentum)


@hookimpl
def register_trackers(register: Callable[[str, TrackerFactory], None]) -> None:
    register("jsonlines", JsonLines)


@hookimpl
def register_commands(register: Callable[[str, Callable[..., Any]], None]) -> None:
    register("questions", questions)
