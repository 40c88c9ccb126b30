"""Takes a JSON object apart, field by field, and notices what nobody has asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import WireError, invalid, unsupported

_KINDS = {
    str: "a text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


class Fields:
    """The fields of an object; null is the same as leaving a field out.

    Args:
        place: where it is in the body, such as "messages[0]"; empty for the body itself.

    Raises:
        WireError: by each method, for a value of another kind; names the field.
    """

    def __init__(self, value: Any, place: str = "") -> None:
        if not isinstance(value, dict):
            raise _wrong_kind(place or "body", "an object", value)
        self.place = place
        self._left = {name: each for name, each in value.items() if each is not None}

    def name_of(self, name: str) -> str:
        """A field's name with its place."""
        return f"{self.place}.{name}" if self.place else name

    def raw(self, name: str) -> Any:
        """A field's value, whatever it is; None where there is none."""
        return self._left.pop(name, None)

    def required(self, name: str) -> Any:
        """The same of a field that must be there."""
        if name not in self._left:
            param = self.name_of(name)
            raise WireError(
                f"missing required parameter: '{param}'",
                param=param,
                code="missing_required_parameter",
            )
        return self.raw(name)

    def text(self, name: str) -> str | None:
        """A text."""
        return self._of_kind(name, str, self.raw(name))

    def required_text(self, name: str) -> str:
        """A text that must be there."""
        text = self._of_kind(name, str, self.required(name))
        assert text is not None
        return str(text)

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        return bool(self._of_kind(name, bool, self.raw(name)))

    def list(self, name: str) -> list[Any]:
        """An array; empty where there is none."""
        return self._of_kind(name, list, self.raw(name)) or []

    def integer(self, name: str, least: int | None = None) -> int | None:
        """An integer that is not less than ``least``."""
        value: int | None = self._of_kind(name, int, self.raw(name))
        if value is not None and least is not None and value < least:
            raise invalid(self.name_of(name), f"must be {least} or more, and is {value}")
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """A number within bounds."""
        value = self.raw(name)
        if type(value) is int:
            value = float(value) if abs(value) < 2**53 else value
        value = self._of_kind(name, float, value)
        if value is not None and not least <= value <= most:
            raise invalid(
                self.name_of(name), f"must be between {least:g} and {most:g}, and is {value:g}"
            )
        return value

    def one_of(self, name: str, options: Sequence[str], why: str = "") -> str | None:
        """One of a few texts."""
        value = self.text(name)
        if value is not None and value not in options:
            known = " or ".join(f"'{option}'" for option in options)
            raise unsupported(
                self.name_of(name), f"must be {known}, and is '{value}'{why and f': {why}'}"
            )
        return value

    def label(self, name: str) -> None:
        """A text that changes nothing in an answer."""
        self.text(name)

    def nothing_but(self, refused: Mapping[str, tuple[Sequence[Any], str]]) -> None:
        """Take fields that may have no other values than those which ask for nothing.

        Args:
            refused: for each field the values that are accepted, and why others are not.
        """
        for name, (harmless, why) in refused.items():
            value = self.raw(name)
            if value is not None and not any(_same(value, each) for each in harmless):
                raise unsupported(self.name_of(name), why)

    def end(self) -> None:
        """Refuse what is left."""
        for name in self._left:
            param = self.name_of(name)
            raise WireError(f"unknown parameter: '{param}'", param=param, code="unknown_parameter")

    def _of_kind(self, name: str, kind: type, value: Any) -> Any:
        if value is None or type(value) is kind:
            return value
        raise _wrong_kind(self.name_of(name), _KINDS[kind], value)


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _wrong_kind(param: str, wanted: str, value: Any) -> WireError:
    return WireError(
        f"invalid type for '{param}': it must be {wanted}, and is {_KINDS[type(value)]}",
        param=param,
        code="invalid_type",
    )
