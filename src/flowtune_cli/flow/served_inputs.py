"""What a program that is served asks in a message: inputs, as JSON or as a plain text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .errors import DataError, did_you_mean


def message_text(message: Mapping[str, Any]) -> str:
    """A message's text, whose content may come in parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def only_user_text(messages: Sequence[Mapping[str, Any]], whose: str) -> str:
    """The text of a chat's only message, which has to be a user's.

    What else a chat says would be lost without a word, so it is refused.

    Args:
        whose: who is asked, for messages: "node 'draft'".

    Raises:
        DataError: there are others, or it is another's.
    """
    roles = [message["role"] for message in messages]
    if roles != ["user"]:
        raise DataError(
            f"{whose} has prompts of its own, and reads no chat: send one message, a user's, with"
            f" its inputs. These messages are of the roles {', '.join(roles)}"
        )
    return message_text(messages[0])


def inputs_of_text(text: str, names: Collection[str], whose: str) -> dict[str, Any]:
    """The inputs that a text gives: a JSON object, or the text itself where it has to be one input.

    Args:
        names: of the inputs; empty if they are not known.
        whose: of what, for messages: "node 'draft'".

    Raises:
        DataError: it is not JSON of inputs, and there is not one alone; or it is an object with a
            name that looks like the input's.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    is_object = isinstance(value, dict)
    if len(names) == 1 and not (is_object and set(names) <= set(value)):
        name = next(iter(names))
        for key in value if is_object else ():
            if key.lower() == name.lower() or did_you_mean(key, [name]):
                raise DataError(
                    f"{whose} has no input '{key}'. Did you mean '{name}'? If the object itself is"
                    f' meant, send it as a text: {{"{name}": "..."}}'
                )
        return {name: text}
    if not is_object:
        known = f", with {', '.join(sorted(names))}" if names else ""
        raise DataError(f"{whose} is asked by a JSON object of its inputs{known}")
    return dict(value)
