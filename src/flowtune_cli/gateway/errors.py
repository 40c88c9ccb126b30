"""Errors on the wire: JSON as OpenAI's API sends it, so that its clients raise their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from ..flow.errors import FlowFailed, FlowtuneError, UsageError, did_you_mean


class WireError(Exception):
    """A request that is answered with an error.

    Args:
        param: the field that is wrong, such as "messages[0].content".
        code: for programs.
        close: the connection cannot be used again, as the body was not read.
        retry_after: in how many seconds it may be asked again; None: that is of no use.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        close: bool = False,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.status = status
        self.close = close
        self.retry_after = retry_after

    @property
    def content(self) -> dict[str, Any]:
        """The error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"message": str(self), "type": kind, "param": self.param, "code": self.code}

    def response(self) -> Response:
        """The answer; it says whether trying again is of use."""
        headers = {"x-should-retry": "false"}
        if self.retry_after is not None:
            headers = {"x-should-retry": "true", "retry-after": str(self.retry_after)}
        if self.close:
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        body = json.dumps({"error": self.content})
        return Response(body, self.status, headers, "application/json")


def unsupported(param: str, why: str) -> WireError:
    """What is not done, and is not ignored either."""
    return WireError(f"'{param}': {why}", param=param, code="unsupported_parameter")


def invalid(param: str, why: str) -> WireError:
    """A value that makes no sense."""
    return WireError(f"'{param}': {why}", param=param, code="invalid_value")


def no_model(name: str, nodes: Sequence[str], others: Sequence[str]) -> WireError:
    """The error for a model that is not declared."""
    known = f"The nodes of this task are: {', '.join(nodes) or 'none'}."
    if others:
        known += f" Passed through to another server: {', '.join(others)}."
    return WireError(
        f"the model '{name}' does not exist.{did_you_mean(name, [*nodes, *others])} {known}",
        param="model",
        code="model_not_found",
        status=404,
    )


def wire_error(error: Exception) -> WireError:
    """What a client is told of an error: nothing of one that is no message for users."""
    if isinstance(error, WireError):
        return error
    if isinstance(error, UsageError):
        return WireError(str(error), code="invalid_value")
    if isinstance(error, FlowFailed):
        return WireError(str(error), code="flow_failed", status=500)
    known = isinstance(error, FlowtuneError)
    return WireError(str(error) if known else "the server failed; its log has more", status=500)
