"""The held-out examples that a run's checkpoints are evaluated on (``[training.evaluate]``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from ..flow.left_out import listed
from ..runs.directory import RunDirectory
from ..runs.example_digests import digest_of_all, example_digests
from .examples import chosen_split, first_examples, note_left_out, read_examples
from .learned_from import also_learned_from, learned_from
from .output import note, warn
from .stored_settings import TrainingData

if TYPE_CHECKING:
    from ..config.settings import EvaluateSettings
    from ..flow.example import Example
    from ..flow.task import Task


@dataclass(frozen=True)
class HeldOut:
    """The examples, and what a run stores of them in the ``data`` of its settings.json."""

    examples: Sequence[Example] = ()
    stored: Mapping[str, Any] = field(default_factory=dict)


def read_held_out(
    task: Task, settings: EvaluateSettings, trained: TrainingData, source: Path | None = None
) -> HeldOut:
    """The examples to evaluate on; none if nothing is evaluated.

    Args:
        trained: what is trained on.
        source: the checkpoint that a new run begins from; what that has learned from is known, too.

    Raises:
        UsageError: there is no such split, an example has no labels, or some are trained on, too.
        DataError: the data cannot be read; says where.
    """
    if not settings.every:
        return HeldOut()
    path = trained.stored["path"] and Path(trained.stored["path"])
    data = settings.data or path
    split = _split(task, settings.split, trained.stored["split"], other_data=settings.data)
    examples = first_examples(read_examples(task, data, split), settings.limit or None)
    note_left_out(task)
    for example in examples:
        if example.gold is None:
            raise UsageError(
                f"example '{example.id}' of split '{split}' of {data or 'the default data'} has no"
                " labels, so what the flow makes of it cannot be evaluated. Set"
                " training.evaluate.split or .data to labelled examples"
            )
    digests = example_digests(examples, note)
    known = {digest[1:] for digest in trained.digests}
    both = [digest.id for digest in digests if digest[1:] in known]
    if both:
        raise UsageError(
            f"{len(both)} of the {len(examples)} examples to evaluate on, split '{split}' of"
            f" {data or 'the default data'}, are also trained on: {listed(both)}. Set"
            " training.evaluate.split or .data to held-out examples"
        )
    _check_before(source, examples)
    relabelled = also_learned_from(trained.digests, examples)
    if relabelled:
        warn(
            f"{len(relabelled)} of the {len(examples)} examples to evaluate on have the inputs of"
            " examples that are trained on, with other labels:"
            f" {listed([example.id for example in relabelled])}"
        )
    stored = {
        "path": None if data is None else str(data.absolute()),
        "split": split,
        "examples": len(examples),
        "examples_sha256": digest_of_all(digests),
    }
    return HeldOut(examples, {"held_out": stored})


def _check_before(source: Path | None, examples: Sequence[Example]) -> None:
    """Check that what a run begins from has not learned from the examples, either.

    Raises:
        UsageError: it has.
    """
    if source is None:
        return
    learned = learned_from(source)
    both = also_learned_from(learned.digests, examples)
    if both:
        raise UsageError(
            f"{len(both)} of the {len(examples)} examples to evaluate on were trained on by"
            f" {source.parent.parent}, from which this run begins, or before that:"
            f" {listed([example.id for example in both])}. Set training.evaluate.split or .data to"
            " held-out examples"
        )
    if learned.unknown:
        note(f"examples to evaluate on may have been trained on before: {learned.unknown}")


def check_held_out(run: RunDirectory, held_out: HeldOut) -> None:
    """Check that a run that is resumed is evaluated on the same examples as before.

    Raises:
        UsageError: it is not, so that its figures could not be compared.
    """
    now, then = held_out.stored.get("held_out"), run.settings["data"].get("held_out")
    if now and then and now["examples_sha256"] != then["examples_sha256"]:
        raise UsageError(
            f"the held-out examples have changed since run '{run.path.name}' began, split"
            f" '{now['split']}' of {now['path'] or 'the default data'}: there were"
            f" {then['examples']}, and now there are {now['examples']}, or others. Bring them back;"
            " training.evaluate.data may say where they are now"
        )


def _split(task: Task, wanted: str | None, trained: str, *, other_data: Path | None) -> str:
    if wanted is not None:
        try:
            return chosen_split(task, wanted)
        except UsageError as error:
            raise UsageError(f"training.evaluate.split: {error}") from None
    if other_data is not None and not other_data.is_dir():
        return trained  # a file is a single split
    others = [name for name in task.splits if name != trained]
    if not others:
        raise UsageError(
            f"task '{task.name}' has one split alone, '{trained}', which is trained on: set"
            " training.evaluate.data to held-out examples"
        )
    return others[0]
