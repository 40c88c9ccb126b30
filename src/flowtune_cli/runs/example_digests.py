"""Digests of examples: whether data are those of an earlier process, and where they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..flow.errors import UsageError
from ..flow.example import Example
from ..flow.text_files import read_text
from ..flow.value_digest import NoDigest, value_digest
from .atomic import write_bytes

_LENGTH = 16


class ExampleDigest(NamedTuple):
    """An example as it is told from another one.

    Args:
        inputs, gold: digests, 16 hex digits each.
    """

    id: str
    inputs: str
    gold: str


def example_digests(
    examples: Iterable[Example], note: Callable[[str], None]
) -> list[ExampleDigest]:
    """The digests of examples, in their order.

    Args:
        note: is told once of each input that has no digest; only its name and type count then.
    """
    told: set[str] = set()

    def digest(example: Example, name: str, value: Any) -> str:
        try:
            return value_digest(value)
        except NoDigest as error:
            if name not in told:
                told.add(name)
                note(
                    f"{name} of example '{example.id}' has no digest, because it holds {error}:"
                    " if its content changes, that is not noticed when this is gone on with"
                )
            return value_digest(f"no digest of {type(value).__qualname__}")

    def digests(example: Example) -> ExampleDigest:
        inputs = {
            name: digest(example, f"input '{name}'", value)
            for name, value in example.inputs.items()
        }
        gold = digest(example, "the gold", example.gold)
        return ExampleDigest(example.id, value_digest(inputs)[:_LENGTH], gold[:_LENGTH])

    return [digests(example) for example in examples]


def digest_of_all(digests: Iterable[ExampleDigest]) -> str:
    """One digest of examples in their order: SHA-256 in hex digits."""
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(_line(digest))
    return whole.hexdigest()


def difference(
    then: Sequence[ExampleDigest],
    now: Sequence[ExampleDigest],
    available: Collection[str] | None = None,
) -> str | None:
    """The first example that differs, in words; None if none does.

    Args:
        available: the ids of all examples of the data, where ``now`` are drawn from more.
    """
    if list(then) == list(now):
        return None
    by_id = {digest.id: digest for digest in now}
    for old in then:
        new = by_id.get(old.id)
        if new is not None and new != old:
            what = [name for name in ("inputs", "gold") if getattr(new, name) != getattr(old, name)]
            return f"example '{old.id}' has other {' and '.join(what)} now"
    known = by_id.keys() if available is None else available
    for old in then:
        if old.id not in known:
            return f"example '{old.id}' is no longer there"
    before = {old.id for old in then}
    # Of drawn examples, one that was not drawn then need not be new.
    for new in now if available is None or len(available) == len(now) else ():
        if new.id not in before:
            return f"example '{new.id}' was not there"
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        if old.id != new.id:
            return f"number {number} was example '{old.id}' and is '{new.id}' now"
    return f"there were {len(then)} examples, and are {len(now)} now"


def write_digests(path: Path, digests: Iterable[ExampleDigest]) -> None:
    """Write a JSON line for each, atomically.

    Raises:
        FlowtuneError: the file cannot be written.
    """
    write_bytes(path, map(_line, digests))


def read_digests(path: Path) -> list[ExampleDigest]:
    """The digests that ``write_digests`` wrote.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        return [ExampleDigest(*json.loads(line)) for line in read_text(path).splitlines()]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} does not hold the digests of examples: {error}") from None


def _line(digest: ExampleDigest) -> bytes:
    return json.dumps(list(digest)).encode() + b"\n"
