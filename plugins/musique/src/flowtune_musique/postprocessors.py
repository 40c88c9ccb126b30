"""The paper's two ways to mend predictions afterwards (section 3.2), as post-processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flowtune_cli import DataError, Example, PostProcessor, Task

from .grounding import ground
from .metrics import listed
from .pairwise import pairwise

Line = Mapping[str, Any]
Note = Callable[[str], None]


class Grounded(PostProcessor):
    """Answer in words of a document that was found."""

    name: ClassVar[str] = "grounded"
    tasks: ClassVar[Sequence[str]] = ("musique-answerable", "musique-full")
    nodes: ClassVar[Sequence[str]] = ("verbose",)

    def apply(
        self, task: Task, examples: Sequence[Example], lines: Sequence[Line], note: Note
    ) -> Sequence[Line]:
        """Ground each answer; without rollouts in the lines, the greedy one is all there is."""
        grounded = [
            {**line, "predicted_answer": ground(_candidates(line, number), found)}
            for number, (line, found) in enumerate(
                zip(lines, _found(examples, lines), strict=True), start=1
            )
        ]
        changed = sum(
            before["predicted_answer"] != after["predicted_answer"]
            for before, after in zip(lines, grounded, strict=True)
        )
        note(f"grounded: {changed} of {len(lines)} answers were changed")
        lacking = sum("rollouts" not in line for line in lines)
        if lacking:
            note(
                f"grounded: {lacking} of {len(lines)} predictions hold no other answers than the"
                " greedy one; 'flowtune predict --grounded --scores' has those of the alternatives"
            )
        return grounded


class Pairwise(PostProcessor):
    """Of the two records of an id, judge the one with the higher score to be the answerable one."""

    name: ClassVar[str] = "pairwise"
    tasks: ClassVar[Sequence[str]] = ("musique-full",)
    order: ClassVar[int] = 1

    def apply(
        self, task: Task, examples: Sequence[Example], lines: Sequence[Line], note: Note
    ) -> Sequence[Line]:
        paired, partnerless = pairwise(lines)
        if partnerless:
            note(
                f"pairwise: {len(partnerless)} ids stand once, and their predictions stay as they"
                f" are: {listed(partnerless)}"
            )
        return paired


def _candidates(line: Line, number: int) -> list[str]:
    """The greedy answer, then those that followed the alternatives of the verbose one."""
    candidates: list[Any] = [line.get("predicted_answer")]
    rollouts = line.get("rollouts", [])
    if not isinstance(rollouts, list):
        raise DataError(f"prediction {number}: its 'rollouts' are {rollouts!r}, not a list")
    for rollout in rollouts:
        if not isinstance(rollout, Mapping) or not {"node", "result"} <= rollout.keys():
            raise DataError(
                f"prediction {number}: a rollout lacks its 'node' or 'result': {rollout!r}."
                " 'flowtune predict --grounded --scores' writes both"
            )
        result = rollout["result"]
        if rollout["node"] == "verbose" and result is not None:
            answer = result.get("predicted_answer") if isinstance(result, Mapping) else None
            candidates.append(answer)
    if not all(isinstance(answer, str) for answer in candidates):
        raise DataError(f"prediction {number} has no 'predicted_answer' that is a text")
    return candidates


def _found(examples: Sequence[Example], lines: Sequence[Line]) -> Iterator[list[str]]:
    """The texts of the documents that each prediction chose."""
    for number, (example, line) in enumerate(zip(examples, lines, strict=True), start=1):
        texts = {document.idx: document.text for document in example.documents}
        chosen = line.get("predicted_support_idxs")
        if (
            not isinstance(chosen, list)
            or not all(isinstance(idx, int) for idx in chosen)
            or not set(chosen) <= texts.keys()
        ):
            raise DataError(
                f"prediction {number}: its 'predicted_support_idxs' are not a list of paragraphs of"
                f" record '{example.record_id}'"
            )
        yield [texts[idx] for idx in chosen]
