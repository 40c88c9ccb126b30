"""The MuSiQue tasks: the flows of the paper's Figure 1 (Answerable) and Figure 3 (Full)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from flowtune_cli import Episode, Example, Node, Preset, Task, UsageError

from . import hops
from .download import locate, official_name
from .evaluation import report
from .feedback import Feedback
from .metrics import PREDICTED, score
from .nodes import answerable_nodes, full_nodes
from .pairwise import SCORE
from .presets import PAPER, SMALL, SMALL_FULL
from .prompts import scratchpad
from .records import Document, example_of, paragraphs_digest, read_examples
from .settings import MusiqueSettings


class MusiqueAnswerable(Task):
    """Every question can be answered from its paragraphs; some of those must be found first."""

    name: ClassVar[str] = "musique-answerable"
    summary: ClassVar[str] = "MuSiQue-Answerable: find the supporting paragraphs, then answer"
    gate: ClassVar[str | None] = "answer_f1"
    # One forward pass then reads a document once for all retrievals of its example.
    defaults: ClassVar[Mapping[str, Any]] = {"learning.step_per": "batch"}
    presets: ClassVar[Sequence[Preset]] = (PAPER, SMALL)
    Settings: ClassVar[Any] = MusiqueSettings
    splits: ClassVar[Sequence[str]] = ("train", "dev", "test")
    training_filter: ClassVar[str] = (
        "match_hops keeps a quarter of the 2-hop, half of the 3-hop and all of the 4-hop questions"
    )
    variant: ClassVar[str] = "ans"

    @classmethod
    def default_nodes(cls, settings: MusiqueSettings) -> Sequence[Node]:
        return answerable_nodes(settings)

    def examples(self, source: Path | None, split: str) -> Iterable[Example]:
        """Read ``source`` (an official folder or one file), or the hub's file of this split.

        Raises:
            DataError: a file or record cannot be used, see ``read_examples``.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.name} has no split '{split}'; its splits: {', '.join(self.splits)}"
            )
        path = locate(
            source,
            official_name(self.variant, split),
            repo=self.settings.hub_repo,
            revision=self.settings.hub_revision,
        )
        return read_examples(path, pairs=self.variant == "full")

    def example_from(self, inputs: Mapping[str, Any]) -> Example:
        """A record as in the data files; it needs no id, and labels are left aside."""
        return replace(example_of(inputs), id=super().example_from(inputs).id)

    def training_examples(self, examples: Iterable[Example], split: str) -> Iterable[Example]:
        """Those of the train split whose ids hop matching keeps, if ``match_hops`` is set.

        Raises:
            DataError: an id does not say how many hops its question has.
        """
        if split == "train" and self.settings.match_hops:
            return (example for example in examples if hops.kept(example.record_id))
        return examples

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        feedback = Feedback(episode, example)
        found = await self.search(episode, example, feedback)
        return await self.answer(episode, example, found, feedback)

    async def search(
        self, episode: Episode, example: Example, feedback: Feedback
    ) -> list[Document]:
        """The retrieval block of Figure 1: query, retrieve, and stop or go on.

        Unlike there, one does not stop before ``min_retrievals``.
        """
        found: list[Document] = []
        unused = list(example.documents)
        rounds = min(self.settings.max_retrievals, len(unused))
        for number in range(1, rounds + 1):
            shown = scratchpad(found)
            query = await episode.call("query", question=example.question, found=shown)
            document = await episode.call(
                "retrieve",
                query=query,
                question=example.question,
                found=shown,
                candidates=unused,
            )
            feedback.retrieved(document, unused)
            found.append(document)
            unused = [candidate for candidate in unused if candidate != document]
            if number == rounds:
                break
            if number < self.settings.min_retrievals:
                continue
            stop = await self.says_yes(
                episode, "stop", question=example.question, found=scratchpad(found)
            )
            feedback.asked_to_stop(unused)
            if stop:
                break
        feedback.searched(found)
        return found

    async def answer(
        self, episode: Episode, example: Example, found: list[Document], feedback: Feedback
    ) -> dict[str, Any]:
        """The answer block of Figure 1: a verbose answer, then a concise one.

        Unlike there, the concise one sees the documents, too.
        """
        asked = {"question": example.question, "found": scratchpad(found)}
        verbose = await episode.call("verbose", **asked)
        concise = await episode.call("concise", **asked, answer=verbose)
        feedback.answered(concise)
        return {
            "predicted_answer": concise,
            "predicted_support_idxs": sorted(document.idx for document in found),
            "predicted_answerable": True,
            "verbose_answer": verbose,
        }

    async def says_yes(self, episode: Episode, node: str, **inputs: Any) -> bool:
        """Whether a Judge chose the first of its labels."""
        label = await episode.call(node, **inputs)
        return bool(label == self.node(node).labels[0].strip())

    def prediction(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """The official line: the official id and the three official fields."""
        prediction = {name: result[name] for name in PREDICTED}
        return {"id": self.prediction_id(example), **prediction}

    def prediction_id(self, example: Example) -> str:
        """The official id, which the two records of a pair share in MuSiQue-Full."""
        record_id: str = example.record_id
        return record_id

    def scores(self, example: Example, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """Under the names that they have in files of the paper's reference implementation."""
        scores = {SCORE: result[SCORE]} if SCORE in result else {}
        digest = paragraphs_digest(document.text for document in example.documents)
        return {**scores, "pardigest": digest}

    def evaluate(
        self, examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        return report(score(examples, predictions))


class MusiqueFull(MusiqueAnswerable):
    """Each question stands twice: once with paragraphs that suffice to answer it, once without."""

    name: ClassVar[str] = "musique-full"
    summary: ClassVar[str] = "MuSiQue-Full: find paragraphs, answer, and say whether they suffice"
    presets: ClassVar[Sequence[Preset]] = (PAPER, SMALL_FULL)
    variant: ClassVar[str] = "full"

    @classmethod
    def default_nodes(cls, settings: MusiqueSettings) -> Sequence[Node]:
        return full_nodes(settings)

    async def run(self, episode: Episode, example: Example) -> Mapping[str, Any]:
        feedback = Feedback(episode, example)
        found = await self.search(episode, example, feedback)
        result = await self.answer(episode, example, found, feedback)
        sufficient = await self.says_yes(
            episode, "sufficiency", question=example.question, found=scratchpad(found)
        )
        feedback.judged(sufficient)
        logprobs = episode.last.response.detail["logprobs"]
        return {
            **result,
            "predicted_answerable": sufficient,
            SCORE: logprobs[self.node("sufficiency").labels[0].strip()],
        }
