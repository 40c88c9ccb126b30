"""An engine that plays a small invented MuSiQue world from a script, and records of that world."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import Example, Task
from flowtune_cli.testing import ScriptedEngine
from flowtune_musique.records import read_examples

Record = dict[str, Any]


# They cancel the thresholds of the nodes that judge by likelihood.
HEADS = {
    "stop": {"likelihood": 1.0, "bias": -3.0},
    "sufficiency": {"likelihood": 1.0, "bias": -0.95},
}


class World(ScriptedEngine):
    """A script. Documents are titled T0, T1 ..., and a query is a list of such titles.

    Args:
        queries: the query and its alternatives, by the number of documents found before.
        stops: says Yes to stopping when so many documents are found.
        verbose: the verbose answer and its alternatives.
        concise: the concise answer by verbose answer.
        sufficient: log-likelihood of Yes; that of No is -1.
    """

    def __init__(
        self,
        queries: Mapping[int, Sequence[str]] | None = None,
        *,
        stops: Sequence[int] = (),
        verbose: Sequence[str] = ("It is red.",),
        concise: Mapping[str, str] | None = None,
        sufficient: float = -0.5,
    ) -> None:
        super().__init__(self._text, self._likelihood, HEADS)
        self.queries = queries or {}
        self.stops = stops
        self.verbose = verbose
        self.concise = concise or {}
        self.sufficient = sufficient

    def _text(self, node: str, prompt: str, output: int) -> str | None:
        if node == "query":
            texts = self.queries.get(prompt.split("Documents:\n")[-1].count("Title: "), ("T0",))
        elif node == "verbose":
            texts = self.verbose
        else:
            answer = prompt.split("Answer: ")[-1].split("\n")[0]
            texts = (self.concise.get(answer, answer),)
        return texts[output] if output < len(texts) else None

    def _likelihood(self, node: str, prompt: str, completion: str) -> float:
        if node == "stop":
            yes = prompt.count("Title: ") in self.stops
            if "Question: " in completion:
                return 1.0 if yes else -1.0
            return -0.1 if yes == (completion == "Yes") else -3.0
        if node == "sufficiency":
            # "No" has -1; the question after the documents, judged by likelihood, tells the odds.
            if "Question: " in completion:
                return self.sufficient + 1.0
            return self.sufficient if completion == "Yes" else -1.0
        if completion == " No":
            return -1.0
        if completion.startswith(("\nQuestion: ", " T")):
            return -1.0  # whatever the document and its title: the query tells them apart
        asked = prompt if completion == " Yes" else completion
        wanted = asked.split("Look up: ")[1].split("\n")[0].split()
        title = prompt.split("Title: ")[-1].split("\n")[0]
        return -float(wanted.index(title)) if title in wanted else -100.0 - int(title[1:])


def make_record(
    record_id: str = "2hop__11_22",
    *,
    support: Iterable[int] = (3, 5),
    answerable: bool = True,
    documents: int = 7,
    labels: bool = True,
    answer: str = "red",
    aliases: Sequence[str] = (),
    marker: str = "",
) -> Record:
    """An invented record in the official format; ``marker`` makes its paragraphs different."""
    supporting = set(support)
    paragraphs: list[Record] = [
        {"idx": idx, "title": f"T{idx}", "paragraph_text": f"Fact number {idx}{marker}."}
        for idx in range(documents)
    ]
    record: Record = {"id": record_id, "paragraphs": paragraphs, "question": "Which colour is it?"}
    if labels:
        for paragraph in paragraphs:
            paragraph["is_supporting"] = paragraph["idx"] in supporting
        record |= {
            "question_decomposition": [{"id": 11, "question": "colour >> of it"}],
            "answer": answer,
            "answer_aliases": list(aliases),
            "answerable": answerable,
        }
    return record


@pytest.fixture
def world() -> type[World]:
    return World


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write records (or lines as they are) to a JSON-lines file and return its path."""

    def write(records: Iterable[Record | str], name: str = "records.jsonl") -> Path:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def example(write: Callable[..., Path]) -> Callable[..., Example]:
    """One example of the task's kind from an invented record, see ``make_record``."""

    def example(task: Task, **options: Any) -> Example:
        path = write([make_record(**options)], "one.jsonl")
        (only,) = read_examples(path, pairs=task.name == "musique-full")
        return only

    return example


@pytest.fixture
def real_data() -> Path:
    """A folder with official files, where there is one."""
    folder = os.environ.get("FLOWTUNE_MUSIQUE_DATA")
    if not folder:
        pytest.skip("FLOWTUNE_MUSIQUE_DATA does not name a folder with MuSiQue's official files")
    return Path(folder)
