"""The inputs that a run's examples had, against which those of a call are held: one is misspelt."""

from __future__ import annotations

from collections.abc import Callable, Collection

from .errors import DataError, did_you_mean
from .example import Example


class KnownInputs:
    """Says of a call's inputs which ones no example of the run had: a flow would ignore them.

    Args:
        names: of the inputs that examples had; None where that is not known.
        tell: is told once of each input that is unknown, and looks like none that is missing.
    """

    def __init__(self, names: Collection[str] | None, tell: Callable[[str], None]) -> None:
        self._names = names
        self._tell = tell
        self._told: set[str] = set()

    def check(self, example: Example) -> None:
        """Check the inputs of an example that a user has given.

        Raises:
            DataError: one is probably misspelt: one that looks like it is missing.
        """
        if self._names is None:
            return
        missing = sorted(set(self._names) - set(example.inputs))
        for name in example.inputs:
            if name in self._names:
                continue
            trained = f"the run's examples had: {', '.join(sorted(self._names)) or 'none'}"
            close = [other for other in missing if other.lower() == name.lower()]
            hint = f" Did you mean '{close[0]}'?" if close else did_you_mean(name, missing)
            if hint:
                raise DataError(
                    f"there is no input '{name}'.{hint} {trained[0].upper()}{trained[1:]}"
                )
            if name not in self._told:
                self._told.add(name)
                self._tell(f"the input '{name}' is unknown, and maybe ignored: {trained}")
