"""What a program that is served asks in a message: inputs, as JSON or as a plain text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .errors import DataError


def message_text(message: Mapping[str, Any]) -> str:
    """A message's text, whose content may come in parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a chat's latest message, which has to be a user's.

    Raises:
        DataError: it is another's.
    """
    last = messages[-1]
    if last["role"] != "user":
        raise DataError(f"the last message must be a user's, and is of the role '{last['role']}'")
    return message_text(last)


def inputs_of_text(text: str, names: Collection[str], whose: str) -> dict[str, Any]:
    """The inputs that a text gives: a JSON object, or the text itself where it has to be one input.

    Args:
        names: of the inputs; empty if they are not known.
        whose: of what, for messages: "node 'draft'".

    Raises:
        DataError: it is not JSON of inputs, and there is not one alone.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    is_object = isinstance(value, dict)
    if len(names) == 1 and not (is_object and set(names) <= set(value)):
        return {next(iter(names)): text}
    if not is_object:
        known = f", with {', '.join(sorted(names))}" if names else ""
        raise DataError(f"{whose} is asked by a JSON object of its inputs{known}")
    return dict(value)
