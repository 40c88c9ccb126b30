"""The ASGI app: the endpoints of OpenAI's API whose models are the nodes of an episode.

From outside, paths begin with ``/e/EPISODE/v1`` and need the episode's token. In process they begin
with ``/v1``, and whoever calls the app has put the episode's door into the scope.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .body import MOST_BYTES, MOST_SECONDS, json_body
from .callers import SCOPE, Caller, caller_of
from .door import Door
from .doors import Doors
from .effects import Effect, End
from .endpoints import (
    ENDPOINTS,
    FORWARDED,
    check_method,
    event_stream,
    is_effect,
    is_models,
    json_response,
    models_answer,
    unknown_url,
    versioned,
)
from .errors import WireError, no_model, unsupported
from .fields import Fields
from .forwarding import UNLIKE, forwarded
from .parked import KEPT_SECONDS, ClientGone
from .passed_through import Forwarder, PassedThrough

_log = logging.getLogger(__name__)


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
        try:
            made = await self._made(request, caller, path)
        except WireError as error:
            # To look whether there is a model is no mistake.
            if request.method == "POST":
                caller.note_error(str(error), error.code)
            raise
        if made.status_code >= 400:
            said = bytes(made.body).decode(errors="replace")
            caller.note_error(f"the other server: {made.status_code}: {said}", None)
        return made

    async def _made(self, request: Request, caller: Caller, path: str) -> Response:
        inner = versioned(path)
        if inner is None:
            raise unknown_url(request)
        path = inner
        if is_models(path):
            check_method(request, "GET")
            return json_response(models_answer(path, caller.door.nodes, self.forwarder.models))
        if path not in FORWARDED and not is_effect(path):
            raise unknown_url(request)
        check_method(request, "POST")
        body = await json_body(
            request,
            seconds=None if SCOPE in request.scope else self.body_seconds,
            most_bytes=self.most_bytes,
        )
        if not isinstance(body, dict):
            raise WireError("the body must be an object", code="invalid_type")
        if is_effect(path):
            return json_response(await self._effect(caller, path, body))
        name = body.get("model")
        if isinstance(name, str) and name in self.forwarder.models:
            return await self._forwarded(caller, path, name, body)
        if path == "/embeddings":
            self._check_model(caller.door, Fields(body).required_text("model"))
            raise unsupported("model", "nodes give no embeddings: declare a model to pass through")
        endpoint = ENDPOINTS[path]
        asked = endpoint.parse(body)
        self._check_model(caller.door, asked.model)
        refusal = caller.door.refusal(asked.model, asked.inputs)
        if refusal is not None:
            raise WireError(refusal, code="invalid_value")
        answered = await caller.result(
            partial(_digest, path, body), partial(caller.door.call, asked.model, asked.inputs)
        )
        made = endpoint.build(asked, answered)
        return event_stream(endpoint.stream(asked, made)) if asked.stream else json_response(made)

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
        async def forward(name: str, url: str, sent: dict[str, Any]) -> dict[str, Any]:
            effect = partial(caller.door.effect, self.forwarder.forward, name, url, sent)
            answer: dict[str, Any] = await caller.result(partial(_digest, path, body), effect)
            return answer

        return await forwarded(name, self.forwarder.models[name], path, body, forward)

    def _check_model(self, door: Door, name: str) -> None:
        if not door.has(name):
            raise no_model(name, door.nodes, list(self.forwarder.models))


def _digest(path: str, body: Mapping[str, Any]) -> str:
    asked = {name: value for name, value in body.items() if name not in UNLIKE}
    text = json.dumps([path, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
