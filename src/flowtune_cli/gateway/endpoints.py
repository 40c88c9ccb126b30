"""The endpoints of OpenAI's API that are answered, and what all answers have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .answers import chat_chunks, chat_completion, events, text_chunks, text_completion
from .door import Answered
from .errors import WireError, no_model
from .passed_through import PassedThrough
from .requests import Asked, chat_request, completion_request
from .responses_answer import response, response_events
from .responses_request import responses_request
from .streams import Begin, ChatStream, ResponseStream, TextStream


@dataclass(frozen=True)
class Endpoint:
    """An endpoint.

    Args:
        parse: takes a request's body apart.
        build: makes the answer.
        stream: an answer as events.
        begin: the same for an answer that is being written.
    """

    parse: Callable[[Any], Asked]
    build: Callable[[Asked, Answered], dict[str, Any]]
    stream: Callable[[Asked, dict[str, Any]], str]
    begin: Begin


ENDPOINTS = {
    "/chat/completions": Endpoint(
        chat_request,
        chat_completion,
        lambda asked, made: events(chat_chunks(made, asked.include_usage)),
        ChatStream,
    ),
    "/completions": Endpoint(
        completion_request,
        text_completion,
        lambda asked, made: events(text_chunks(made, asked.include_usage)),
        TextStream,
    ),
    "/responses": Endpoint(
        responses_request, response, lambda asked, made: response_events(made), ResponseStream
    ),
}
FORWARDED = ("/chat/completions", "/completions", "/embeddings", "/responses")

EVENT_STREAM = "text/event-stream"
STREAM_HEADERS = {"cache-control": "no-store"}


def versioned(path: str) -> str | None:
    """What follows "/v1" in a path; None where it begins otherwise."""
    return path[3:].rstrip("/") if path[:3] == "/v1" else None


def is_effect(path: str) -> bool:
    """Whether it is an address of effects."""
    return path == "/effects" or path.startswith("/effects/")


def is_models(path: str) -> bool:
    """Whether it is the list of models, or one of them."""
    return path == "/models" or path.startswith("/models/")


def models_answer(
    path: str, nodes: list[str], others: Mapping[str, PassedThrough]
) -> dict[str, Any]:
    """The list of models, or the one that a path names.

    Args:
        nodes: what is answered here.
        others: the models that are passed through.

    Raises:
        WireError: there is no such model.
    """
    name = path[len("/models/") :]
    owners = {
        **dict.fromkeys(nodes, "flowtune"),
        **{other: model.base_url for other, model in others.items()},
    }
    if name and name not in owners:
        raise no_model(name, nodes, list(others))
    listed = [
        {"id": each, "object": "model", "created": 0, "owned_by": owner}
        for each, owner in owners.items()
    ]
    if name:
        return next(each for each in listed if each["id"] == name)
    return {"object": "list", "data": listed}


def json_response(made: Mapping[str, Any], status: int = 200) -> Response:
    """An answer as JSON."""
    headers = {"x-should-retry": "false"} if status >= 400 else None
    return Response(json.dumps(made), status, headers, "application/json")


def event_stream(text: str) -> Response:
    """All events of an answer."""
    return Response(text, 200, STREAM_HEADERS, EVENT_STREAM)


def check_method(request: Request, method: str) -> None:
    """Refuse another method.

    Raises:
        WireError: it is another.
    """
    if request.method != method:
        raise WireError(
            f"{request.scope['path']} is asked by {method}, and not by {request.method}",
            status=405,
            close=True,
        )


def unknown_url(request: Request) -> WireError:
    """The error for a path that is not known."""
    return WireError(
        f"unknown request URL: {request.method} {request.scope['path']}. Known: /v1/models,"
        f" {', '.join(f'/v1{path}' for path in FORWARDED)}. Nothing is kept between requests.",
        code="unknown_url",
        status=404,
        close=True,
    )
