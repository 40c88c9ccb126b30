"""Checks what settings name: optimizers, explorations, evaluators, trackers, and their options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from ..flow.adapters import adapter_problems
from ..flow.errors import UsageError, unknown_name
from ..flow.named import name_and_options
from ..flow.node import Node
from ..flow.prompt import Template
from ..registry import Registry
from .checker import Checker
from .layers import Key
from .node_values import misleading_values
from .optimizers import node_choices
from .schema import argument_types, check, field_types, not_finite
from .settings import LearningSettings, Settings


def check_sections(settings: Settings, checker: Checker) -> None:
    """Check the trackers and the optimizer that the sections name."""
    registry = checker.registry
    for tracker in settings.run.trackers:
        checker.attempt(("run", "trackers"), partial(registry.tracker, tracker))
    key = ("learning", "optimizer")
    # Only if it was chosen: a plugin's optimizers may import torch, which takes seconds.
    if checker.origin(key).layer != "default":
        optimizer = settings.learning.optimizer
        checker.attempt(key, lambda: _fits(*name_and_options(optimizer), registry))


def check_nodes(
    nodes: Iterable[Node], key: Key, learning: LearningSettings | None, checker: Checker
) -> None:
    """Check what nodes name, and their templates.

    Args:
        key: of the table that holds the nodes' tables.
        learning: what their optimizers are based on; None if these are not checked.
    """
    registry = checker.registry
    nodes = list(nodes)
    for name, setting, text in adapter_problems(nodes):
        checker.complain((*key, name, setting), text)
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        own = (*key, node.name)
        checker.attempt(
            (*own, "exploration"), partial(_check_exploration, node.exploration, registry)
        )
        if node.evaluator is not None:
            checker.attempt(
                (*own, "evaluator"), partial(_check_evaluator, node.evaluator, registry)
            )
        for place, text in misleading_values(node):
            checker.complain((*own, *place), text)
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            for place, text in not_finite(value):
                checker.complain((*own, field.name, *place), text)
            if isinstance(value, Template):
                fields = partial(getattr, value, "fields")
                checker.attempt((*own, field.name), fields, "is not a template")
        if learning is not None:
            owner = by_name.get(node.share or node.name, node)
            _check_optimizers(node, owner, own, learning, checker)


def _check_optimizers(
    node: Node, owner: Node, key: Key, learning: LearningSettings, checker: Checker
) -> None:
    """Check what a node changes about ``learning.optimizer``, if anything.

    Args:
        owner: the node whose adapter it uses.
    """
    settings = [name for name in ("optimizer", "head_optimizer") if getattr(node, name) is not None]
    if settings:
        last = (*key, settings[-1])
        choices = checker.attempt(last, partial(node_choices, learning, node, owner))
        for choice in choices or ():
            if choice.setting in settings:
                fits = partial(_fits, choice.name, choice.options, checker.registry)
                what = f"cannot be used with optimizer '{choice.name}'"
                checker.attempt((*key, choice.setting), fits, what)


def _check_exploration(setting: str | Mapping[str, Any], registry: Registry) -> None:
    name, options = name_and_options(setting)
    _check_class_options(registry.exploration(name), options)
    registry.make_exploration(setting)


def _check_evaluator(setting: str | Mapping[str, Any], registry: Registry) -> None:
    name, options = name_and_options(setting)
    _check_class_options(registry.evaluator(name), options)
    registry.make_evaluator(setting)


def _check_class_options(kind: type, options: Mapping[str, Any]) -> None:
    """Check options that are the keyword arguments of a class."""
    if not dataclasses.is_dataclass(kind):
        _check_arguments(options, kind, inspect.signature(kind).parameters.values())
        return
    _check_options(options, field_types(kind))
    _check_values(options, kind)


def _fits(name: str, options: Mapping[str, Any], registry: Registry) -> None:
    """Check options as far as the optimizer's signature tells what they may be.

    What else is wrong with them is found when the optimizer is made.
    """
    factory = registry.optimizer(name)
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    _check_arguments(options, factory, parameters)


def _check_arguments(
    options: Mapping[str, Any], function: Any, parameters: Iterable[inspect.Parameter]
) -> None:
    """Check options that are arguments of a function, or of a class."""
    parameters = list(parameters)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        _check_options(options, [parameter.name for parameter in parameters])
    types = argument_types(function)
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    _check_values(
        {option: value for option, value in options.items() if option in named},
        {name: types[name] for name in named},
    )


def _check_values(options: Mapping[str, Any], table: Any) -> None:
    for option, value in options.items():
        for place, text in check(table, option, value)[1].items():
            raise UsageError(f"{'.'.join((option, *place))} {text}")


def _check_options(options: Iterable[str], names: Iterable[str]) -> None:
    for option in options:
        if option not in names:
            raise unknown_name("option", option, list(names))
