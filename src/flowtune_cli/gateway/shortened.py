"""Whether what a served flow answers was cut: a node's output at its limit, or a prompt to fit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ..flow.chat import ChatAnswer
from ..flow.episode import Episode

_log = logging.getLogger(__name__)


class CutPrompts:
    """Says in the log, once of each node, that its prompts are cut: answers cannot say it."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def note(self, node: str, dropped_tokens: int) -> None:
        """Note how much of the prompts of a node's call was dropped."""
        if dropped_tokens and node not in self._told:
            self._told.add(node)
            _log.warning(
                "a prompt of node '%s' was cut by %d tokens to fit the context window"
                " (model.context). It is said once of each node",
                node,
                dropped_tokens,
            )


def is_cut_off(episode: Episode) -> bool:
    """Whether a text of the result ends where a node's output had reached its limit."""
    ends = [_text(step.output.value) for step in episode.steps if step.output.truncated]
    texts = [text.strip() for text in _texts(episode.result)]
    return any(text.endswith(end) for end in ends if end for text in texts)


def _text(value: Any) -> str:
    text = value.text if isinstance(value, ChatAnswer) else value
    return text.strip() if isinstance(text, str) else ""


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
