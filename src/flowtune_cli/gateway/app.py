"""The ASGI app: the endpoints of OpenAI's API whose models are the nodes of an episode.

From outside, paths begin with ``/e/EPISODE/v1`` and need the episode's token. In process they begin
with ``/v1``, and whoever calls the app has put the episode's door into the scope.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import chat_chunks, chat_completion, events, text_chunks, text_completion
from .body import MOST_BYTES, MOST_SECONDS, json_body
from .callers import SCOPE, Caller, caller_of
from .door import Answered, Door
from .doors import Doors
from .effects import Effect, End
from .errors import WireError, no_model, unsupported
from .fields import Fields
from .parked import KEPT_SECONDS, ClientGone
from .passed_through import Forwarder, PassedThrough, UpstreamError
from .requests import Asked, chat_request, completion_request
from .responses_answer import response, response_events
from .responses_request import responses_request

_UNLIKE = ("stream", "stream_options", "user", "metadata")
"""Fields in which a request and its retry, or two equal ones, may differ."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Endpoint:
    parse: Callable[[Any], Asked]
    build: Callable[[Asked, Answered], dict[str, Any]]
    stream: Callable[[Asked, dict[str, Any]], str]


_ENDPOINTS = {
    "/chat/completions": _Endpoint(
        chat_request,
        chat_completion,
        lambda asked, made: events(chat_chunks(made, asked.include_usage)),
    ),
    "/completions": _Endpoint(
        completion_request,
        text_completion,
        lambda asked, made: events(text_chunks(made, asked.include_usage)),
    ),
    "/responses": _Endpoint(responses_request, response, lambda asked, made: response_events(made)),
}
_FORWARDED = ("/chat/completions", "/completions", "/embeddings", "/responses")


class Gateway:
    """The app, for any number of episodes.

    Args:
        models: those that are passed through to other servers, by name: ``base_url``, and
            ``model`` and ``api_key_env`` where there are any; see ``PassedThrough``.
        most_bytes: of a body.
        body_seconds: in which a client outside has to send its body.
        kept_seconds: how long a call whose connection is gone waits for the client's retry.

    Attributes:
        doors: the episodes that can be reached from outside.
        forwarder: counts what was passed through.

    Raises:
        UsageError: a model is not declared as it should be, or its key is not set.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        most_bytes: int = MOST_BYTES,
        body_seconds: float = MOST_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self.doors = Doors(kept_seconds)
        declared = {name: PassedThrough.of(name, each) for name, each in (models or {}).items()}
        self.forwarder = Forwarder(declared)
        self.most_bytes = most_bytes
        self.body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway answers HTTP, and no {scope['type']}")
        request = Request(scope, receive)
        try:
            made = await self._answer(request)
        except WireError as error:
            made = error.response()
        except (ClientDisconnect, ClientGone):
            return
        except Exception as error:
            if SCOPE in scope:
                scope[SCOPE].door.fail(error)
            _log.exception("the gateway failed on %s", scope["path"])
            made = WireError("the gateway failed; its log has more", status=500).response()
        await made(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        caller, path = caller_of(request, self.doors)
        version, path = path[:3], path[3:].rstrip("/")
        if version != "/v1":
            raise _unknown(request)
        if path == "/models" or path.startswith("/models/"):
            _check_method(request, "GET")
            return _json(self._models(caller.door, path[len("/models/") :]))
        if path not in _FORWARDED and not _is_effect(path):
            raise _unknown(request)
        _check_method(request, "POST")
        body = await json_body(
            request,
            seconds=None if SCOPE in request.scope else self.body_seconds,
            most_bytes=self.most_bytes,
        )
        if not isinstance(body, dict):
            raise WireError("the body must be an object", code="invalid_type")
        if _is_effect(path):
            return _json(await self._effect(caller, path, body))
        name = body.get("model")
        if isinstance(name, str) and name in self.forwarder.models:
            return await self._forwarded(caller, path, name, body)
        if path == "/embeddings":
            self._check_model(caller.door, Fields(body).required_text("model"))
            raise unsupported("model", "nodes give no embeddings: declare a model to pass through")
        endpoint = _ENDPOINTS[path]
        asked = endpoint.parse(body)
        self._check_model(caller.door, asked.model)
        refusal = caller.door.refusal(asked.model, asked.inputs)
        if refusal is not None:
            raise WireError(refusal, code="invalid_value")
        answered = await caller.result(
            partial(_digest, path, body), partial(caller.door.call, asked.model, asked.inputs)
        )
        made = endpoint.build(asked, answered)
        return _event_stream(endpoint.stream(asked, made)) if asked.stream else _json(made)

    async def _effect(self, caller: Caller, path: str, body: dict[str, Any]) -> dict[str, Any]:
        effects, run = caller.door.outside_effects, path[len("/effects/") :]
        made = (
            partial(effects.end, run, End.of(body))
            if run
            else partial(effects.begin, Effect.of(body))
        )
        answer: dict[str, Any] = await caller.result(partial(_digest, path, body), made)
        return answer

    async def _forwarded(
        self, caller: Caller, path: str, name: str, body: dict[str, Any]
    ) -> Response:
        model = self.forwarder.models[name]
        stream, options = body.get("stream"), body.get("stream_options")
        if stream and path != "/chat/completions":
            raise unsupported("stream", "of the models passed through, only chats are streamed")
        sent = {key: value for key, value in body.items() if key not in _UNLIKE}
        sent["model"] = model.model or name
        url = model.base_url + path
        effect = partial(caller.door.effect, self.forwarder.forward, name, url, sent)
        try:
            answer = await caller.result(partial(_digest, path, body), effect)
        except UpstreamError as error:
            raise WireError(str(error), code="upstream_error", status=error.status) from None
        except TimeoutError as error:
            raise WireError(str(error), code="upstream_error", status=504) from None
        made, status = answer["body"], answer["status"]
        if status >= 400 or not stream:
            return _json(made, status)
        include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        try:
            return _event_stream(events(chat_chunks(made, include_usage)))
        except (KeyError, TypeError):
            raise WireError("the other server's answer is no chat completion", status=502) from None

    def _check_model(self, door: Door, name: str) -> None:
        if not door.has(name):
            raise no_model(name, door.nodes, list(self.forwarder.models))

    def _models(self, door: Door, name: str) -> dict[str, Any]:
        owners = {
            **dict.fromkeys(door.nodes, "flowtune"),
            **{other: model.base_url for other, model in self.forwarder.models.items()},
        }
        if name and name not in owners:
            raise no_model(name, door.nodes, list(self.forwarder.models))
        listed = [
            {"id": each, "object": "model", "created": 0, "owned_by": owner}
            for each, owner in owners.items()
        ]
        if name:
            return next(each for each in listed if each["id"] == name)
        return {"object": "list", "data": listed}


def _digest(path: str, body: Mapping[str, Any]) -> str:
    asked = {name: value for name, value in body.items() if name not in _UNLIKE}
    text = json.dumps([path, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _json(made: Mapping[str, Any], status: int = 200) -> Response:
    headers = {"x-should-retry": "false"} if status >= 400 else None
    return Response(json.dumps(made), status, headers, "application/json")


def _event_stream(text: str) -> Response:
    return Response(text, 200, {"cache-control": "no-store"}, "text/event-stream")


def _check_method(request: Request, method: str) -> None:
    if request.method != method:
        raise WireError(
            f"{request.scope['path']} is asked by {method}, and not by {request.method}",
            status=405,
            close=True,
        )


def _unknown(request: Request) -> WireError:
    return WireError(
        f"unknown request URL: {request.method} {request.scope['path']}. Known: /v1/models,"
        f" {', '.join(f'/v1{path}' for path in _FORWARDED)}. Nothing is kept between requests.",
        code="unknown_url",
        status=404,
        close=True,
    )


def _is_effect(path: str) -> bool:
    return path == "/effects" or path.startswith("/effects/")
