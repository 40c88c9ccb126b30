"""What a plugin may register: each check gives the thing's kind and name, or says what is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any, Literal

from ..flow.model_source import ModelSource
from ..flow.node import Exploration, Node
from ..flow.postprocessing import PostProcessor
from ..flow.preset import Preset
from ..flow.task import Task

Kind = Literal[
    "task",
    "node type",
    "exploration",
    "reward",
    "evaluator",
    "optimizer",
    "post-processor",
    "model",
    "tracker",
    "command",
]
Checked = tuple[Kind, str]

_NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
_MODEL = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")


class Refused(Exception):
    """A thing that cannot be registered, and why."""


def name_of(name: Any, what: str) -> str:
    """A name that can be typed on a command line, be a TOML key and part of a variable's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused(
            f"{what} needs a name of letters and digits with single '_' or '-' between them;"
            f" it has {name!r}"
        )
    return name


def task(thing: Any) -> Checked:
    _subclass(thing, Task)
    name = name_of(getattr(thing, "name", None), f"task {thing.__name__}")
    fields = getattr(thing.Settings, "model_fields", None)
    if thing.Settings is not None and fields is None:
        raise Refused(f"task '{name}': Settings must be a pydantic model or None")
    if fields and "nodes" in fields:
        raise Refused(f"task '{name}': Settings may not have a field 'nodes'; [tasks.{name}.nodes]")
    _presets(name, thing.presets)
    if not inspect.iscoroutinefunction(thing.run):
        raise Refused(f"task '{name}': run must be an async function: 'async def run'")
    # A task may make its nodes from its settings instead, and then has no such attribute.
    nodes = getattr(thing, "nodes", [])
    if not isinstance(nodes, (list, tuple)) or not all(isinstance(n, Node) for n in nodes):
        raise Refused(f"task '{name}': nodes must be a list of nodes")
    node_names = [name_of(node.name, f"a node of task '{name}'") for node in nodes]
    lower = [node_name.lower() for node_name in node_names]
    for node_name in node_names:
        if lower.count(node_name.lower()) > 1:
            raise Refused(
                f"task '{name}' has two nodes named '{node_name}', if upper and lower case are one"
            )
    return "task", name


def _presets(task: str, presets: Any) -> None:
    """Names must differ, and a model can have one default preset only."""
    if not all(isinstance(preset, Preset) for preset in presets):
        raise Refused(f"task '{task}': presets must be a list of presets")
    names = [name_of(preset.name, f"a preset of task '{task}'") for preset in presets]
    models = [model for preset in presets for model in preset.models]
    for what, found in (("two presets named", names), ("two presets for the model", models)):
        for each in found:
            if found.count(each) > 1:
                raise Refused(f"task '{task}' has {what} '{each}'")


def node_type(thing: Any) -> Checked:
    _subclass(thing, Node)
    what = f"node type {thing.__name__}"
    if not dataclasses.is_dataclass(thing):
        raise Refused(f"{what} is not a dataclass")
    return "node type", name_of(getattr(thing, "kind", None), f"{what} (its 'kind')")


def exploration(thing: Any) -> Checked:
    _subclass(thing, Exploration)
    name = name_of(getattr(thing, "name", None), f"exploration {thing.__name__}")
    return "exploration", name


def reward_or_evaluator(thing: Any) -> Checked:
    """A function is a reward; a class makes evaluators."""
    if isinstance(thing, type):
        return "evaluator", _evaluator(thing)
    if not callable(thing):
        raise Refused(f"a reward is a function, and an evaluator a class; got {thing!r}")
    return "reward", name_of(getattr(thing, "__name__", None), "a reward function")


def optimizer(name: Any, thing: Any) -> Checked:
    return "optimizer", _named("optimizer", name, thing)


def postprocessor(thing: Any) -> Checked:
    _subclass(thing, PostProcessor)
    name = name_of(getattr(thing, "name", None), f"post-processor {thing.__name__}")
    for field, least in (("tasks", 1), ("nodes", 0)):
        names = getattr(thing, field, None)
        listed = names if isinstance(names, (list, tuple)) else [names]
        if (
            not all(isinstance(name, str) for name in listed)
            or len(listed) < least
            or listed != names
        ):
            raise Refused(f"post-processor '{name}': {field} must be a list of names")
    _made_without_arguments(thing, f"post-processor '{name}'")
    return "post-processor", name


def model(thing: Any) -> Checked:
    if not isinstance(thing, ModelSource):
        raise Refused(f"{thing!r} is not an object of a subclass of ModelSource")
    name = getattr(thing, "name", None)
    if not isinstance(name, str) or not _MODEL.fullmatch(name) or name.lower().endswith(".gguf"):
        raise Refused(
            f"model {type(thing).__name__} needs a name of letters and digits with single '.', '_'"
            f" or '-' between them, which is not that of a GGUF file; it has {name!r}"
        )
    if not isinstance(thing.summary, str):
        raise Refused(f"model '{name}': summary must be a text")
    return "model", name


def tracker(name: Any, thing: Any) -> Checked:
    return "tracker", _named("tracker", name, thing)


def command(name: Any, thing: Any) -> Checked:
    return "command", _named("command", name, thing)


CHECKS: dict[str, Callable[..., Checked]] = {
    "register_tasks": task,
    "register_node_types": node_type,
    "register_explorations": exploration,
    "register_rewards": reward_or_evaluator,
    "register_optimizers": optimizer,
    "register_postprocessors": postprocessor,
    "register_models": model,
    "register_trackers": tracker,
    "register_commands": command,
}


def _evaluator(thing: type) -> str:
    name = name_of(getattr(thing, "name", None), f"evaluator {thing.__name__}")
    compare = getattr(thing, "compare", None)
    if compare is None or not inspect.iscoroutinefunction(compare):
        raise Refused(f"evaluator '{name}' needs a method 'async def compare'")
    _made_without_arguments(thing, f"evaluator '{name}'")
    return name


def _made_without_arguments(thing: type, what: str) -> None:
    for parameter in inspect.signature(thing).parameters.values():
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not optional:
            raise Refused(f"{what} cannot be made without '{parameter.name}'")


def _named(what: str, name: Any, thing: Any) -> str:
    if not callable(thing):
        raise Refused(f"{what} '{name}' must be a function; got {thing!r}")
    return name_of(name, f"{what} {thing!r}")


def _subclass(thing: Any, base: type) -> None:
    if not isinstance(thing, type) or not issubclass(thing, base):
        raise Refused(f"{thing!r} is not a subclass of {base.__name__}")
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(thing.__abstractmethods__))  # type: ignore[attr-defined]
        raise Refused(f"{thing.__name__} does not define {missing}")
