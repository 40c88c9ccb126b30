"""Which examples a checkpoint has learned from, those of the runs that it began from included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..flow.errors import FlowtuneError
from ..runs.directory import RunDirectory
from ..runs.example_digests import ExampleDigest, digest_of_all, example_digests, read_digests
from .output import note, warn
from .stored_settings import stored_settings

if TYPE_CHECKING:
    from ..flow.example import Example


@dataclass(frozen=True)
class Learned:
    """What a checkpoint has learned from.

    Args:
        digests: of the examples.
        unknown: why it is not known of some run; empty if it is known.
    """

    digests: Sequence[ExampleDigest]
    unknown: str = ""


def learned_from(checkpoint: Path) -> Learned:
    """The examples that a run had played by a checkpoint, and its forebears' (``--from``)."""
    digests: list[ExampleDigest] = []
    at: Path | None = checkpoint
    seen: set[Path] = set()
    while at is not None and at not in seen:
        seen.add(at)
        run = RunDirectory(at.parent.parent)
        try:
            # They are in the order of training.
            digests += read_digests(run.examples_path)[: int(at.name)]
            source = stored_settings(run)["from"]
        except FlowtuneError as error:
            return Learned(digests, str(error))
        at = None if source is None else Path(source)
    return Learned(digests)


def also_learned_from(
    learned: Sequence[ExampleDigest], examples: Sequence[Example]
) -> list[Example]:
    """Those of the examples whose inputs are among what was learned from."""
    without_digest: list[str] = []
    now = example_digests(examples, without_digest.append)
    # Inputs that have no digest are all alike, so labels have to tell examples apart.
    fields = slice(1, 3) if without_digest else slice(1, 2)
    known = {digest[fields] for digest in learned}
    both = zip(examples, now, strict=True)
    return [example for example, digest in both if digest[fields] in known]


def tell_trained_on(name: str, checkpoint: Path, examples: Sequence[Example]) -> None:
    """Warn if examples are among those that a checkpoint has learned from.

    An example is the same if the flow is given the same; its labels may be others now.

    Args:
        name: what is played, as the user called it.
    """
    learned = learned_from(checkpoint)
    same = len(also_learned_from(learned.digests, examples))
    if same:
        warn(f"'{name}' was trained on {same} of the {len(examples)} examples")
    if learned.unknown:
        more = "more" if same else "some"
        note(f"'{name}' may have been trained on {more} of the examples: {learned.unknown}")


def tell_chosen_by(
    name: str, checkpoint: Path, examples: Sequence[Example], data: Path | None, split: str
) -> None:
    """Warn if a run's best checkpoint was chosen by examples that it is to be judged by.

    Args:
        name: as the user called it: only a name that ends with "@best" says that it was chosen.
        data, split: where the examples are from.
    """
    if not name.endswith("@best"):
        return
    held_out = stored_settings(RunDirectory(checkpoint.parent.parent))["data"].get("held_out")
    if not held_out:
        return
    path = None if data is None else str(data.absolute())
    count = min(len(examples), held_out["examples"])
    if (held_out["path"], held_out["split"]) != (path, split):
        digests = example_digests(examples, lambda text: None)
        if digest_of_all(digests) != held_out["examples_sha256"]:
            return
    warn(
        f"'{name}' was chosen as the best by {count} of the {len(examples)} examples, so its"
        " figures are likely to be too good: judge it by others"
    )
