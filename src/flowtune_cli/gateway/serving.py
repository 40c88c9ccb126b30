"""The ASGI app that serves a trained flow: its nodes are models, and so is the flow as a whole.

It answers at once and records nothing; ``app`` is the one that records, in training.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..flow.errors import FlowFailed
from ..runtime.shared_engine import SharedEngine
from .answering import Answering
from .body import MOST_BYTES, MOST_SECONDS, json_body
from .connections import Sender, check_local, while_connected
from .effects import Effect, End
from .endpoints import (
    ENDPOINTS,
    FORWARDED,
    check_method,
    is_effect,
    is_models,
    json_response,
    models_answer,
    unknown_url,
    versioned,
)
from .errors import WireError, no_model, unsupported, wire_error
from .fields import Fields
from .forwarding import forwarded
from .parked import ClientGone
from .partial_text import TextOfTokens
from .passed_through import Forwarder, PassedThrough
from .served_models import ServedModel, ServedNode
from .server_metrics import ServerMetrics

MOST_OPEN = 256
"""Requests that are taken at a time."""

_GONE = 499
"""In the counts: the client went away."""

_log = logging.getLogger(__name__)


class Serving:
    """The app.

    Args:
        models: what is asked by name.
        engine: that answers for them.
        tokens: the tokenizer's.
        others: models of other servers, which the flow's program may ask, too; see ``Gateway``.
        key: that each request has to bring; None answers programs of this machine.
        most_open: requests that are taken at a time; others are told to come back.
        most_bytes: of a body.
        body_seconds: in which a client has to send its body.

    Attributes:
        stopping: no request is taken any more.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        engine: SharedEngine,
        tokens: TextOfTokens,
        *,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        key: str | None = None,
        most_open: int = MOST_OPEN,
        most_bytes: int = MOST_BYTES,
        body_seconds: float = MOST_SECONDS,
    ) -> None:
        self.stopping = False
        self._models = {model.name: model for model in models}
        declared = {name: PassedThrough.of(name, each) for name, each in (others or {}).items()}
        self._forwarder = Forwarder(declared)
        self._engine = engine
        self._key = key
        self._most_open = most_open
        self._most_bytes = most_bytes
        self._body_seconds = body_seconds
        self._open = 0
        self._metrics = ServerMetrics(engine, lambda: self._open)
        self._answering = Answering(tokens, self._metrics)

    @property
    def has_key(self) -> bool:
        """Whether a request has to bring a key."""
        return self._key is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            raise RuntimeError(f"the server answers HTTP, and no {scope['type']}")
        request, sender = Request(scope, receive), Sender(send)
        path: str = scope["path"]
        if path == "/health":
            await self._health()(scope, receive, send)
            return
        inner = versioned(path)
        is_call = inner is not None and request.method == "POST"
        begun, status = time.monotonic(), 0
        scope["state"] = {"model": "unknown"}
        try:
            response = await self._admitted(request, sender, inner)
            if response is not None:
                await response(scope, receive, sender)
        except (ClientDisconnect, ClientGone):
            status = _GONE
        except Exception as error:
            made = wire_error(error)
            if isinstance(error, FlowFailed):
                _log.error("%s", error.traceback)
            elif made is not error and made.status >= 500:
                _log.error("the server failed on %s", path, exc_info=error)
            status = made.status
            if not sender.status:
                await made.response()(scope, receive, sender)
        finally:
            if is_call:
                seconds = time.monotonic() - begun
                self._metrics.end(
                    scope["state"]["model"], status or sender.status or _GONE, seconds
                )

    async def _admitted(
        self, request: Request, sender: Sender, inner: str | None
    ) -> Response | None:
        """The response, unless it was sent already."""
        self._check_key(request)
        path: str = request.scope["path"]
        if path == "/metrics":
            check_method(request, "GET")
            return self._metrics.response()
        if inner is None:
            raise unknown_url(request)
        if is_models(inner):
            check_method(request, "GET")
            answering = [
                name
                for name, model in self._models.items()
                if not (isinstance(model, ServedNode) and model.refusal)
            ]
            return json_response(models_answer(inner, answering, self._forwarder.models))
        if inner not in FORWARDED and not is_effect(inner):
            raise unknown_url(request)
        check_method(request, "POST")
        self._check_room()
        self._open += 1
        try:
            body = await json_body(request, seconds=self._body_seconds, most_bytes=self._most_bytes)
            if not isinstance(body, dict):
                raise WireError("the body must be an object", code="invalid_type")
            if is_effect(inner):
                return json_response(_effect(inner, body))
            await while_connected(request, sender, self._called(request, sender, inner, body))
        finally:
            self._open -= 1
        return None

    async def _called(
        self, request: Request, sender: Sender, path: str, body: dict[str, Any]
    ) -> None:
        name, others = body.get("model"), self._forwarder.models
        if isinstance(name, str) and name in others:
            request.scope["state"]["model"] = name
            response = await forwarded(name, others[name], path, body, self._forwarder.forward)
            await response(request.scope, request.receive, sender)
            return
        if path == "/embeddings":
            self._model(Fields(body).required_text("model"))
            raise unsupported("model", "nodes give no embeddings: declare a model to pass through")
        asked = ENDPOINTS[path].parse(body)
        model = self._model(asked.model)
        request.scope["state"]["model"] = model.name
        await self._answering.send(ENDPOINTS[path], model, asked, request.scope, sender)

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise no_model(name, list(self._models), list(self._forwarder.models))
        return self._models[name]

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            check_local(request)
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._key.encode())
        if not same or kind.lower() != "bearer":
            raise WireError(
                "send the server's key: 'Authorization: Bearer KEY', which clients take from"
                " OPENAI_API_KEY",
                code="invalid_api_key",
                status=401,
                close=True,
            )

    def _check_room(self) -> None:
        if self.stopping:
            raise WireError(
                "the server is stopping", code="stopping", status=503, close=True, retry_after=5
            )
        if self._open >= self._most_open:
            raise WireError(
                f"{self._open} requests are being answered or wait, and no more are taken: try"
                " again",
                code="too_many_requests",
                status=429,
                close=True,
                retry_after=1,
            )

    def _health(self) -> Response:
        if self.stopping:
            return json_response({"status": "stopping"}, 503)
        if self._engine.failure is not None:
            return json_response({"status": "failing"}, 503)
        return Response(json.dumps({"status": "ok"}), 200, None, "application/json")


def _effect(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Nothing is recorded: the program runs its tool, and gets back what it says of it."""
    if path == "/effects":
        Effect.of(body)
        return {"run": secrets.token_hex(8)}
    end = End.of(body)
    return {"result": end.result} if end.error is None else {"error": end.error}
