"""Requests for models of other servers: what these are sent, and how their answers are sent on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from .answers import chat_chunks, events
from .endpoints import event_stream, json_response
from .errors import WireError, unsupported
from .passed_through import PassedThrough, UpstreamError

UNLIKE = ("stream", "stream_options", "user", "metadata")
"""Fields in which a request and its retry, or two equal ones, may differ."""


async def forwarded(
    name: str,
    model: PassedThrough,
    path: str,
    body: dict[str, Any],
    forward: Callable[[str, str, dict[str, Any]], Awaitable[dict[str, Any]]],
) -> Response:
    """The answer of another server.

    Args:
        forward: asks it: the model's name here, the address and the body; see ``Forwarder``.

    Raises:
        WireError: there is none.
    """
    stream, options = body.get("stream"), body.get("stream_options")
    if stream and path != "/chat/completions":
        raise unsupported("stream", "of the models passed through, only chats are streamed")
    sent = {key: value for key, value in body.items() if key not in UNLIKE}
    sent["model"] = model.model or name
    try:
        answer = await forward(name, model.base_url + path, sent)
    except UpstreamError as error:
        raise WireError(str(error), code="upstream_error", status=error.status) from None
    except TimeoutError as error:
        raise WireError(str(error), code="upstream_error", status=504) from None
    made, status = answer["body"], answer["status"]
    if status >= 400 or not stream:
        return json_response(made, status)
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    try:
        return event_stream(events(chat_chunks(made, include_usage)))
    except (KeyError, TypeError):
        raise WireError("the other server's answer is no chat completion", status=502) from None
