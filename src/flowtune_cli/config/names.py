"""Checks what settings name: optimizers, explorations, evaluators, trackers, and their options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ..flow.errors import UsageError, unknown_name
from ..flow.named import named
from ..flow.node import Exploration, Node
from ..flow.prompt import Template
from ..registry import Registry
from .layers import Key
from .optimizers import optimizer_choices
from .schema import Checker, field_types, message, table, validated
from .settings import LearningSettings, RunSettings


def check_sections(
    learning: LearningSettings, run: RunSettings, registry: Registry, checker: Checker
) -> None:
    """Check the trackers and the optimizer that the sections name."""
    for name in run.trackers:
        checker.attempt(("run", "trackers"), lambda name=name: registry.tracker(name))
    key = ("learning", "optimizer")
    # Only if it was chosen: a plugin's optimizers may import torch, which takes seconds.
    if checker.origin(key).layer != "default":
        checker.attempt(key, lambda: _optimizer(*named(learning.optimizer), registry))


def check_node(
    node: Node, key: Key, learning: LearningSettings | None, registry: Registry, checker: Checker
) -> None:
    """Check what a node names, and its templates.

    Args:
        key: of the node's table.
        learning: what the node's optimizers are based on; None if they are not checked.
    """
    checker.attempt((*key, "exploration"), lambda: make_exploration(node, registry))
    if node.evaluator is not None:
        checker.attempt((*key, "evaluator"), lambda: registry.evaluator(str(node.evaluator)))
    for field in dataclasses.fields(node):
        template = getattr(node, field.name)
        if isinstance(template, Template):
            checker.attempt((*key, field.name), lambda t=template: t.fields, "is not a template")
    choices = None
    if learning is not None and (node.optimizer, node.head_optimizer) != (None, None):
        field = "optimizer" if node.head_optimizer is None else "head_optimizer"
        choices = checker.attempt((*key, field), lambda: optimizer_choices(learning, node))
    for field, choice in zip(("optimizer", "head_optimizer"), choices or (), strict=False):
        if getattr(node, field) is not None:
            checker.attempt((*key, field), lambda c=choice: _optimizer(c.name, c.options, registry))


def make_exploration(node: Node, registry: Registry) -> Exploration:
    """The exploration strategy that a node names, with its options.

    Raises:
        UsageError: there is no such strategy, or its options do not fit.
    """
    name, options = named(node.exploration)
    strategy = registry.exploration(name)
    if dataclasses.is_dataclass(strategy):
        types: dict[str, Any] = field_types(strategy)
        _check_names(name, options, types)
        problems, _ = validated(table(name, {o: types[o] for o in options}), options)
        for place, details in problems.items():
            raise UsageError(f"{'.'.join(place)} {message(details)}")
    return strategy(**options)


def _optimizer(name: str, options: Mapping[str, Any], registry: Registry) -> None:
    """The values of the options are checked when the optimizer is made."""
    parameters = list(inspect.signature(registry.optimizer(name)).parameters.values())[1:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        _check_names(name, options, [parameter.name for parameter in parameters])


def _check_names(owner: str, options: Iterable[str], known: Iterable[str]) -> None:
    for option in options:
        if option not in known:
            raise unknown_name(f"option of '{owner}':", option, list(known))
