"""A node's target: a template over the example's fields, ``"{category}"``, or a function."""

from __future__ import annotations

import copy
import inspect
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..flow.episode import Episode, Step, Target
from ..flow.errors import UsageError, did_you_mean
from .loading import load_function
from .rewards import takes


def target_file(text: str) -> str | None:
    """The text of a target that is a function, ``targets.py:right``; None for a template."""
    path, _, name = text.rpartition(":")
    return text if "{" not in text and Path(path).suffix == ".py" and name.isidentifier() else None


class NodeTarget:
    """What a node's calls should have answered.

    A function is called for each call of the node with the example, gold fields included, and the
    request (``messages`` and so on); it returns the right answer, or None where there is none. A
    template is for nodes that are called once an episode; where one of its fields is null, there is
    no right answer either.

    Attributes:
        fields: of the example, which a template shows; a function has none.

    Raises:
        UsageError: it is neither, or the function cannot be loaded.
    """

    def __init__(self, node: str, text: str) -> None:
        self.node = node
        self.text = text
        place = target_file(text)
        self.function = None if place is None else load_function(place)
        self.fields = _fields(text) if place is None else []
        if self.function is not None:
            takes(self.function, text, "example", "request")
            if inspect.iscoroutinefunction(self.function):
                raise UsageError(
                    f"the target '{text}' of node '{node}' is an async function, which nobody"
                    " awaits: make it 'def', and put what it would ask into the data"
                )
        elif not self.fields:
            raise UsageError(
                f"the target '{text}' of node '{node}' is neither a template with a field of the"
                " example, such as '{category}', nor a function FILE.py:FUNCTION"
            )

    def report(self, episode: Episode, example: Mapping[str, Any]) -> None:
        """Report the targets of an episode that has ended; a rollout has none.

        Raises:
            ValueError: a template does not say which of several calls it is for.
            KeyError: the example has no such field.
        """
        steps = [step for step in episode.steps if step.node == self.node]
        if episode.is_rollout or not steps:
            return
        if self.function is None:
            if len(steps) > 1:
                raise ValueError(
                    f"node '{self.node}' was called {len(steps)} times, and its target"
                    f" '{self.text}' does not say which call it is for: make it a function"
                    " FILE.py:FUNCTION of (example, request)"
                )
            filled = self._filled(example)
            if filled is not None:
                episode.target(self.node, filled)
            return
        for step in steps:
            gold = self.function(copy.deepcopy(dict(example)), _request(step))
            if gold is not None:
                episode.targets.append(Target(step.index, gold))

    def _filled(self, example: Mapping[str, Any]) -> str | None:
        for field in self.fields:
            if field not in example:
                raise KeyError(
                    f"the target '{self.text}' of node '{self.node}' asks for '{field}', which the"
                    f" example does not have.{did_you_mean(field, list(example))} It has:"
                    f" {', '.join(example)}"
                )
        if any(example[field] is None for field in self.fields):
            return None
        texts = {
            name: value if isinstance(value, str) else _json(value)
            for name, value in example.items()
        }
        return self.text.format_map(texts)


def _fields(text: str) -> list[str]:
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise UsageError(f"the target '{text}' is not a template: {error}") from None
    for name in found:
        if not name.replace("_", "").isalnum():
            raise UsageError(
                f"the target '{text}' asks for '{name}': only names of fields can stand in braces"
            )
    return found


def _request(step: Step) -> Any:
    """What a chat node was shown: its digest is made of this, so it is all that counts."""
    try:
        return json.loads(step.prompt_text)
    except ValueError:
        return {"text": step.prompt_text}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
