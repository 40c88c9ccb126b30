"""Answers that are sent while they are written: the events of each endpoint, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .answers import DONE, ChatChunks, TextChunks, event
from .errors import WireError
from .responses_answer import EventWriter, begin_events, begin_message, end_event, end_message
from .responses_answer import text_delta as response_text

Made = Mapping[str, Any]
"""An answer, or one without text that has the same ids."""


class Stream(Protocol):
    """The events of an answer whose text comes in pieces. It has no tool calls."""

    def begin(self) -> str:
        """What comes before the text."""

    def text(self, text: str) -> str:
        """A piece of the text."""

    def end(self, made: Made) -> str:
        """What comes behind the text of the whole answer."""

    def error(self, error: WireError) -> str:
        """The end of an answer that cannot be gone on with."""


Begin = Callable[[Made, bool], Stream]
"""Begins a stream: an answer without text, and whether the usage is wanted."""


class ChatStream:
    """Of /chat/completions."""

    def __init__(self, made: Made, include_usage: bool) -> None:
        self._chunks = ChatChunks(made, include_usage)

    def begin(self) -> str:
        return event(self._chunks.begin())

    def text(self, text: str) -> str:
        return event(self._chunks.text(text))

    def end(self, made: Made) -> str:
        (choice,) = made["choices"]
        rest = [*self._chunks.end(choice), *self._chunks.usage(made)]
        return "".join(map(event, rest)) + DONE

    def error(self, error: WireError) -> str:
        return event({"error": error.content})


class TextStream:
    """Of /completions."""

    def __init__(self, made: Made, include_usage: bool) -> None:
        self._chunks = TextChunks(made, include_usage)

    def begin(self) -> str:
        return ""

    def text(self, text: str) -> str:
        return event(self._chunks.text(text))

    def end(self, made: Made) -> str:
        (choice,) = made["choices"]
        rest = [self._chunks.end(choice), *self._chunks.usage(made)]
        return "".join(map(event, rest)) + DONE

    def error(self, error: WireError) -> str:
        return event({"error": error.content})


class ResponseStream:
    """Of /responses, whose answer is one message."""

    def __init__(self, made: Made, include_usage: bool) -> None:
        self._made = made
        self._write = EventWriter()

    def begin(self) -> str:
        (item,) = self._made["output"]
        begun = [*begin_events(self._made), *begin_message(0, item)]
        return "".join(map(self._write, begun))

    def text(self, text: str) -> str:
        (item,) = self._made["output"]
        return self._write(response_text(0, item, text))

    def end(self, made: Made) -> str:
        (item,) = made["output"]
        return "".join(map(self._write, [*end_message(0, item), end_event(made)]))

    def error(self, error: WireError) -> str:
        # Its clients look for 'error' in the data, and for the event's type.
        content = error.content
        data = {"type": "error", **content, "error": content}
        return f"event: error\ndata: {json.dumps(data)}\n\n"
