"""An engine that follows a script, for playing the flow without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from flowtune_cli import Example
from flowtune_cli.flow.request import (
    Answer,
    Decoded,
    DecodeRequest,
    Generation,
    Likelihood,
    Request,
    Scored,
    ScoreRequest,
)
from flowtune_toyqa.flow import ToyQA
from flowtune_toyqa.settings import ToyQASettings


@dataclass
class ScriptedEngine:
    """Answers by the script, which sees what a model would: the adapter and the texts.

    Args:
        texts: (adapter, prompt text) -> the greedy output, then alternatives.
        score: (adapter, prompt text, completion) -> its log-likelihood.
        asked: every request so far.
    """

    texts: Callable[[str, str], list[str]]
    score: Callable[[str, str, str], float]
    asked: list[Request] = field(default_factory=list)

    def answer(self, requests: list[Request]) -> list[Answer]:
        self.asked.extend(requests)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        adapter = request.adapter or ""
        if isinstance(request, DecodeRequest):
            texts = self.texts(adapter, request.prompt.text)[: request.decoding.outputs]
            generations = tuple(Generation(text, (1, 2), -1.0, False) for text in texts)
            return Decoded(request.prompt.text, 9, 0, generations, 0)
        assert isinstance(request, ScoreRequest)
        likelihoods = tuple(
            tuple(Likelihood(self.score(adapter, prompt.text, text), 1) for text in completions)
            for prompt, completions in request.items
        )
        prompts = tuple(prompt.text for prompt, _ in request.items)
        return Scored(prompts, 9, 0, likelihoods, 0)


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

    def texts(self, adapter: str, prompt: str) -> list[str]:
        if adapter == "answer":
            return [self.example.gold.answer, *self.answers]
        assert adapter == "query"
        return [str(len(self._found(prompt))), *self.queries]

    def score(self, adapter: str, prompt: str, completion: str) -> float:
        if adapter == "stop":
            complete = len(self._found(prompt)) == len(self.example.gold.support)
            return 0.0 if (completion == "Yes") == (complete and self.stops) else -1.0
        assert adapter == "retrieve"
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
        return ScriptedEngine(self.texts, self.score)


@pytest.fixture
def oracle() -> Callable[..., Oracle]:
    """``oracle(example, queries=..., answers=..., stops=...)``: the script of an example."""
    return Oracle


@pytest.fixture
def task() -> Callable[..., ToyQA]:
    """``task(hops=2, ...)``: the task with these settings."""
    return lambda **settings: ToyQA(ToyQASettings(**settings))
