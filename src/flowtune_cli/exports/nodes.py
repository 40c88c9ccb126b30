"""What another program needs to know of a node to play it, as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ..flow.node import Node
from ..flow.prompt import Template
from ..nodes import Chat, Factor, Generate, Judge, Rank

_LEARNING = frozenset(field.name for field in fields(Node))
"""What every node has: how it learns, which nothing needs that plays it."""

_OF_A_CALL = "each call of the flow brings its own messages"
_BY_CODE = "it is made by code, which no file can hold"


def node_entry(
    node: Node,
    adapter: Mapping[str, Any] | None,
    head: Mapping[str, float],
    state: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A node's entry in flow.json.

    Args:
        adapter: what is said of its adapter; None is the base model alone.
        head: the parameters that were learned beside the adapter.
        state: what a node that learns by itself has learned.
    """
    own, unwritten = _own(node)
    code = None
    if not type(node).__module__.startswith("flowtune_cli."):
        # Its class may do otherwise than the one that it is made from.
        code = _class_name(node)
        others, missing = _fields(node)
        own, unwritten = {**others, **own}, {**missing, **unwritten}
    return {
        "kind": node.kind,
        "code": code,
        "adapter": None if adapter is None else dict(adapter),
        "model": dict(node.model) if isinstance(node.model, Mapping) else node.model,
        "context_without_adapter": adapter is not None and reads_contexts(node),
        "head": dict(head),
        **({} if state is None else {"state": dict(state)}),
        **own,
        "unwritten": unwritten,
    }


def _own(node: Node) -> tuple[dict[str, Any], dict[str, str]]:
    """A node's fields, and why some of them are not among these, by name."""
    if isinstance(node, Chat):
        sampling = {"temperature": node.temperature, "top_p": node.top_p}
        return {"prompt": None, **_writing(node), **sampling}, {"prompt": _OF_A_CALL}
    if isinstance(node, Generate):
        return {"prompt": _template(node.prompt), **_writing(node)}, {}
    if isinstance(node, Judge):
        by_likelihood = {"factors": _factors(node.factors), "threshold": node.threshold}
        return {
            "prompt": _template(node.prompt),
            "score": node.score,
            "labels": _labels(node.labels),
            **(by_likelihood if node.score == "likelihood" else {}),
        }, {}
    if isinstance(node, Rank):
        by_score = (
            {"labels": _labels(node.labels)}
            if node.score == "choice"
            else {"factors": _factors(node.factors)}
        )
        features = [feature.name for feature in node.features]
        return {
            "prompt": _template(node.prompt),
            "score": node.score,
            **by_score,
            "features": features,
        }, {f"features.{name}": _BY_CODE for name in features}
    return {}, {}


def _fields(node: Node) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a node of a type that is not flowtune's, as far as they are JSON values."""
    own: dict[str, Any] = {}
    unwritten = {"request": f"the code of {_class_name(node)} makes it"}
    for field in fields(node):
        if field.name in _LEARNING or field.name.startswith("_"):
            continue
        try:
            own[field.name] = to_jsonable_python(getattr(node, field.name))
        except PydanticSerializationError:
            own[field.name] = None
            unwritten[field.name] = _BY_CODE
    return own, unwritten


def reads_contexts(node: Node) -> bool:
    """Whether some text of a node's prompts is read by the base model alone."""
    return any(template.frozen_prefix for template in _templates(vars(node)))


def _templates(value: Any) -> Iterator[Template]:
    """All templates in a value."""
    if isinstance(value, Template):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _templates(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _templates(each)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _templates({field.name: getattr(value, field.name) for field in fields(value)})


def _class_name(node: Node) -> str:
    return f"{type(node).__module__}.{type(node).__qualname__}"


def _writing(node: Chat | Generate) -> dict[str, Any]:
    return {"max_new_tokens": node.max_new_tokens, "stop": list(node.stop)}


def _template(template: Template) -> dict[str, Any]:
    return {field.name: getattr(template, field.name) for field in fields(template)} | {
        "truncate": list(template.truncate)
    }


def _labels(labels: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": label, "value": label.strip()} for label in labels]


def _factors(factors: Sequence[Factor]) -> list[dict[str, Any]]:
    return [
        {
            "text": factor.text,
            "prompt": None if factor.prompt is None else _template(factor.prompt),
            "weight": factor.weight,
        }
        for factor in factors
    ]
