"""An engine that follows a script, for playing the flow without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from flowtune_cli import Example
from flowtune_cli.testing import ScriptedEngine
from flowtune_toyqa.flow import ToyQA
from flowtune_toyqa.settings import ToyQASettings


@dataclass
class Oracle:
    """A script that answers an example perfectly, but for what a test changes.

    It queries for the next document of the chain by its number ("0", "1", ...), finds it, stops
    when the chain is complete, and answers with the gold answer, whatever it was shown.

    Args:
        queries, answers: the alternatives after the greedy output.
        stops: False never stops.
    """

    example: Example
    queries: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    stops: bool = True

    def write(self, node: str, prompt: str, output: int) -> str | None:
        if node == "answer":
            texts = [self.example.gold.answer, *self.answers]
        else:
            assert node == "query"
            texts = [str(len(self._found(prompt))), *self.queries]
        return texts[output] if output < len(texts) else None

    def score(self, node: str, prompt: str, completion: str) -> float:
        if node == "stop":
            complete = len(self._found(prompt)) == len(self.example.gold.support)
            return 0.0 if (completion == "Yes") == (complete and self.stops) else -1.0
        assert node == "retrieve"
        number = completion.removeprefix("Question: ")
        chain = [self.example.documents[index] for index in self.example.gold.support]
        wanted = chain[int(number)] if number in map(str, range(len(chain))) else None
        document = prompt.strip()
        if document == wanted:
            return 0.0
        # Without a document to look for, whatever is not on the chain is best.
        return -2.0 if document in chain else -1.0

    def _found(self, prompt: str) -> list[str]:
        chain = [self.example.documents[index] for index in self.example.gold.support]
        return [document for document in chain if document in prompt]

    def engine(self) -> ScriptedEngine:
        return ScriptedEngine(self.write, self.score)


@pytest.fixture
def oracle() -> Callable[..., Oracle]:
    """``oracle(example, queries=..., answers=..., stops=...)``: the script of an example."""
    return Oracle


@pytest.fixture
def task() -> Callable[..., ToyQA]:
    """``task(hops=2, ...)``: the task with these settings."""
    return lambda **settings: ToyQA(ToyQASettings(**settings))
