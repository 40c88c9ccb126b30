"""The flow of ToyQA: query, retrieve, stop, answer. Credit comes from deviations alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from flowtune_cli import (
    DataError,
    Episode,
    Example,
    Generate,
    Judge,
    Preset,
    Rank,
    Task,
    Template,
    UsageError,
    exact_match,
    token_f1,
)

from .names import SPLITS
from .settings import ToyQASettings
from .world import hop_question

QUERY = Template(
    "Question: Where was the painter of Red Vane born?\n"
    "Facts:\nSearch: Who painted Red Vane?\n\n"
    "Question: Where was the painter of Red Vane born?\n"
    "Facts: Red Vane was painted by Ola Brim.\nSearch: Where was Ola Brim born?\n\n"
    "Question: {question}\nFacts: {found}\nSearch:",
    chat=False,
    truncate=("found",),
    separator=" ",
)
DOCUMENT = Template("{candidate}\n", chat=False, truncate=("candidate",))
STOP = Template(
    system="Reply Yes or No.",
    user="Facts: {found}\nQuestion: {question}\nAre these facts enough to answer?",
    truncate=("found",),
    separator=" ",
)
ANSWER = Template(
    system="Reply with a name, nothing else.",
    user="Facts: {found}\nQuestion: {question}",
    truncate=("found",),
    separator=" ",
)


@dataclass(frozen=True)
class Gold:
    """What is right for an example: the answer, and which of its documents lead there."""

    answer: str
    support: tuple[int, ...]


class ToyQA(Task):
    """Generated multi-hop questions: each needs a chain of facts that stands in its documents."""

    name = "toyqa"
    summary = "generated multi-hop questions, small enough for a laptop"
    Settings = ToyQASettings
    splits = SPLITS
    gate = "answer_f1"
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning.step_per": "batch",
        "training.save_every": 32,
    }
    presets: ClassVar[Sequence[Preset]] = (
        Preset(
            "small",
            "learning rates for a model of about a hundred million parameters",
            {
                "learning.optimizer": {"name": "adam", "lr": 3e-3},
                # They start well, and get few preferences a batch, which are noisy.
                "nodes.query.optimizer": {"lr": 1e-3},
                "nodes.retrieve.optimizer": {"lr": 1e-3},
                "nodes.stop.optimizer": {"lr": 1e-3},
            },
            models=("smollm2-135m",),
        ),
    )
    nodes = (
        Generate(
            name="query",
            prompt=QUERY,
            reward="support_f1",
            alternatives=1,
            max_new_tokens=12,
            stop=("\n",),
        ),
        Rank(
            name="retrieve",
            prompt=DOCUMENT,
            reward="support_f1",
            score="likelihood",
            text="Question: {query}",
        ),
        Judge(name="stop", prompt=STOP, reward="support_f1"),
        Generate(
            name="answer",
            prompt=ANSWER,
            reward="answer_f1",
            alternatives=8,
            pairs="best",
            max_new_tokens=16,
            stop=(".", "\n"),
        ),
    )

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        question, gold = example.question, example.gold
        found: list[str] = []
        while True:
            query = await episode.call("query", question=question, found=found)
            unused = [document for document in example.documents if document not in found]
            found.append(await episode.call("retrieve", query=query, candidates=unused))
            if len(found) == self.settings.retrievals or set(found) == set(example.documents):
                break
            if await episode.call("stop", question=question, found=found) == "Yes":
                break
        support = [example.documents.index(document) for document in found]
        if gold is not None:
            episode.reward("support_f1", support_f1(support, gold.support))

        answer = await episode.call("answer", question=question, found=found)
        if gold is not None:
            episode.reward("answer_f1", token_f1(answer, [gold.answer]))
            episode.reward("answer_em", exact_match(answer, [gold.answer]))
        return {"answer": answer, "support": support}

    def examples(self, source: Path | None, split: str) -> Iterator[Example]:
        """The questions of a split; the same settings give the same ones everywhere.

        Raises:
            UsageError: a source was given, or there is no such split.
        """
        settings = self.settings
        if source is not None:
            raise UsageError(
                f"toyqa generates its questions and reads no data, but was given '{source}'."
                " Leave --data out; [tasks.toyqa] says what is generated."
            )
        if split not in self.splits:
            raise UsageError(f"toyqa has no split '{split}'; it has: {', '.join(self.splits)}.")
        size = settings.train_size if split == "train" else settings.test_size
        return (self._example(split, index) for index in range(size))

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, float]:
        """The means of answer_em, answer_f1 and support_f1 over all examples.

        Raises:
            DataError: the predictions are not those of the examples, or there are none.
        """
        scores: dict[str, list[float]] = {"answer_em": [], "answer_f1": [], "support_f1": []}
        if not examples or len(examples) != len(predictions):
            raise DataError(f"{len(predictions)} predictions for {len(examples)} examples of toyqa")
        for example, prediction in zip(examples, predictions, strict=True):
            answer, support = _checked(example, prediction)
            scores["answer_em"].append(exact_match(answer, [example.gold.answer]))
            scores["answer_f1"].append(token_f1(answer, [example.gold.answer]))
            scores["support_f1"].append(support_f1(support, example.gold.support))
        return {name: fmean(values) for name, values in scores.items()}

    def _example(self, split: str, index: int) -> Example:
        settings = self.settings
        # A text seeds by its SHA-512, so this does not depend on the process.
        rng = random.Random(f"toyqa {settings.seed} {split} {index}")
        hops = hop_question(rng, split, settings.hops, settings.documents_shown)
        return Example(
            id=f"{split}-{index}",
            inputs={"question": hops.text, "documents": [fact.text for fact in hops.facts]},
            gold=Gold(hops.answer, hops.support),
        )


def support_f1(found: Collection[int], gold: Collection[int]) -> float:
    """F1 of the retrieved documents with those needed, by index; ``gold`` is not empty."""
    return 2 * len(set(found) & set(gold)) / (len(set(found)) + len(set(gold)))


def _checked(example: Example, prediction: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The answer and the document numbers of a prediction line for this example."""
    if prediction.get("id") != example.id:
        raise DataError(
            f"the prediction for example '{example.id}' of toyqa has the id"
            f" {prediction.get('id')!r}: predictions must come in the order of the examples"
        )
    match prediction:
        case {"answer": str(answer), "support": [*support]} if all(
            isinstance(number, int) for number in support
        ):
            return answer, support
    raise DataError(
        f"the prediction for example '{example.id}' of toyqa needs an 'answer' (a text) and"
        " a 'support' (a list of document numbers)"
    )
