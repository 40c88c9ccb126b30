"""A digest of any Python value: equal values have the same one, in every process."""

from __future__ import annotations

import dataclasses
import hashlib
import types
from collections.abc import Callable, Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Any

_SCALARS = frozenset({bool, float, complex, type(None), type(Ellipsis)})


class NoDigest(Exception):
    """A value, or a part of it, has no digest; the message names its type."""


def value_digest(value: Any) -> str:
    """SHA-256, in hex digits, of what a value consists of.

    Sets and mappings count without their order, and lists and tuples as the same. A path counts
    by its name and not by the file's content; a class or function by its name. Of any other
    object, what ``pickle`` would keep counts.

    Raises:
        NoDigest: it holds what cannot be pickled (an open file, a lambda) or refers to itself.
    """
    parts: list[bytes] = []
    try:
        _append(parts, value, set())
    except RecursionError:
        raise NoDigest(f"a {_name(type(value))} that is nested too deeply") from None
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _append(parts: list[bytes], value: Any, inside: set[int]) -> None:
    """Add a value's encoding; each begins with its kind and its length, so that none is another's.

    Args:
        inside: the ids of the objects that ``value`` is a part of.
    """
    kind = type(value)
    if kind is str:
        data = value.encode("utf-8", "surrogatepass")
        parts.append(b"text %d " % len(data))
        parts.append(data)
    elif kind is int:
        parts.append(b"int %x " % value)
    elif kind in _SCALARS:
        parts.append(f"{kind.__name__} {value!r} ".encode())
    elif isinstance(value, (bytes, bytearray)):
        parts.append(b"bytes %d " % len(value))
        parts.append(bytes(value))
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        _append_name(parts, value)
    elif isinstance(value, Enum):
        parts.append(f"enum {_name(kind)}.{value.name} ".encode())
    elif isinstance(value, PurePath):
        _append_all(parts, "path", [value.as_posix()], inside)
    else:
        if id(value) in inside:
            raise NoDigest(f"a {_name(kind)} that refers to itself")
        inside.add(id(value))
        _append_compound(parts, value, inside)
        inside.discard(id(value))


def _append_compound(parts: list[bytes], value: Any, inside: set[int]) -> None:
    if isinstance(value, (list, tuple)):
        _append_all(parts, "list", value, inside)
    elif isinstance(value, Mapping):
        pairs = [(_alone(key, inside), item) for key, item in value.items()]
        pairs.sort(key=lambda pair: pair[0])
        parts.append(b"mapping %d " % len(pairs))
        for key, item in pairs:
            parts.append(key)
            _append(parts, item, inside)
    elif isinstance(value, Set):
        parts.append(b"set %d " % len(value))
        parts += sorted(_alone(item, inside) for item in value)
    elif dataclasses.is_dataclass(value):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        _append_all(parts, _name(type(value)), fields, inside)
    elif isinstance(value, (str, int, float)):  # of a class of its own, such as numpy's
        base = next(base for base in (str, int, float) if isinstance(value, base))
        _append(parts, base(value) if base is not str else str.__str__(value), inside)
    else:
        _append_reduced(parts, value, inside)


def _append_all(parts: list[bytes], name: str, values: Any, inside: set[int]) -> None:
    parts.append(f"{name} {len(values)} ".encode())
    for value in values:
        _append(parts, value, inside)


def _append_reduced(parts: list[bytes], value: Any, inside: set[int]) -> None:
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # of whatever kind: a plugin's class may have its own
        raise NoDigest(f"a {_name(type(value))} ({error})") from error
    if isinstance(reduced, str):  # the name of a global
        _append(parts, reduced, inside)
        return
    # The last two are iterators, of a list's items and of a mapping's pairs.
    values: list[Any] = [*reduced, None, None, None]
    whole = [*values[:3], list(values[3] or ()), list(values[4] or ())]
    _append_all(parts, "object", whole, inside)


def _append_name(parts: list[bytes], value: Callable[..., Any] | type) -> None:
    if "<" in value.__qualname__:
        raise NoDigest(f"the function {value.__qualname__}, which has no name of its own")
    parts.append(f"name {value.__module__}.{value.__qualname__} ".encode())


def _alone(value: Any, inside: set[int]) -> bytes:
    """The digest of a value that has no place: an item of a set, or a key."""
    parts: list[bytes] = []
    _append(parts, value, inside)
    return hashlib.sha256(b"".join(parts)).digest()


def _name(kind: type) -> str:
    return kind.__qualname__
