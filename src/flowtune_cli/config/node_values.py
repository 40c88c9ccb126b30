"""Checks values that a task's code gives its nodes: Python itself takes any, and some mislead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from ..flow.node import Node
from ..flow.prompt import Template
from .layers import Key
from .schema import field_types, without_none

_NOT_NEGATIVE = ("weight", "alternatives", "deviations")


def misleading_values(node: Node) -> Iterator[tuple[Key, str]]:
    """What is wrong with the values of a node, and of its templates, by their places.

    That is a text that is none of those which a field may have, and a text in place of a tuple,
    each letter of which would count as a text of its own.
    """
    for name in _NOT_NEGATIVE:
        value = getattr(node, name)
        if value < 0:
            yield (name,), f"should be 0 or more, not {value}"
    yield from _misleading(node)
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Template):
            for place, text in _misleading(value):
                yield (field.name, *place), text


def _misleading(owner: Any) -> Iterator[tuple[Key, str]]:
    for name, kind in field_types(type(owner)).items():
        value, kind = getattr(owner, name), without_none(kind)
        if not isinstance(value, str):
            continue
        if get_origin(kind) is Literal and value not in get_args(kind):
            known = " or ".join(repr(each) for each in get_args(kind))
            yield (name,), f"should be {known}, not {value!r}"
        elif get_origin(kind) is tuple:
            yield (name,), f"should be a tuple, ({value!r},), not the text {value!r}"
