"""The inputs that a run's examples had, against which those of a call are held: one is misspelt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from .errors import DataError, did_you_mean
from .example import Example

Kinds = Mapping[str, Collection[str]]
"""Of what kinds the values of each input were: "a text", "a list"."""

_ALIKE = frozenset({"a text", "a number", "true or false"})
"""They look the same in a prompt, as data that was read from a table has them."""


def kinds_of(examples: Iterable[Example]) -> dict[str, list[str]]:
    """The kinds of the inputs of examples, as JSON values."""
    found: dict[str, set[str]] = {}
    for example in examples:
        for name, value in example.inputs.items():
            found.setdefault(name, set()).add(_kind(value))
    return {name: sorted(found[name]) for name in sorted(found)}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, types in (
        ("a text", str),
        ("a number", (int, float)),
        ("a list", (list, tuple)),
        ("an object", Mapping),
    ):
        if isinstance(value, types):
            return kind
    return type(value).__qualname__


class KnownInputs:
    """Says of a call's inputs what no example of the run had: a flow would ignore or mistake it.

    Args:
        kinds: of the inputs that examples had; None where that is not known.
        tell: is told once of each input that is unknown, and looks like none that is missing, and
            of each that is of an unknown kind which looks the same in a prompt.
    """

    def __init__(self, kinds: Kinds | None, tell: Callable[[str], None]) -> None:
        self._kinds = kinds
        self._tell = tell
        self._told: set[str] = set()

    def check(self, example: Example) -> None:
        """Check the inputs of an example that a user has given.

        Raises:
            DataError: one is probably misspelt, as one that looks like it is missing; or one is a
                list, say, that never was one.
        """
        if self._kinds is None:
            return
        missing = sorted(set(self._kinds) - set(example.inputs))
        for name, value in example.inputs.items():
            if name in self._kinds:
                self._check_kind(name, _kind(value), self._kinds[name])
                continue
            trained = f"the run's examples had: {', '.join(sorted(self._kinds)) or 'none'}"
            close = [other for other in missing if other.lower() == name.lower()]
            hint = f" Did you mean '{close[0]}'?" if close else did_you_mean(name, missing)
            if hint:
                raise DataError(
                    f"there is no input '{name}'.{hint} {trained[0].upper()}{trained[1:]}"
                )
            self._tell_once(name, f"is unknown, and maybe ignored: {trained}")

    def _check_kind(self, name: str, kind: str, known: Collection[str]) -> None:
        if kind in known:
            return
        text = f"is {kind}, and in the run's examples it was {' or '.join(known)}"
        if kind in _ALIKE and not _ALIKE.isdisjoint(known):
            self._tell_once(name, text)
            return
        raise DataError(f"the input '{name}' {text}")

    def _tell_once(self, name: str, text: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._tell(f"the input '{name}' {text}")
