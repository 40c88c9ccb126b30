"""Reads the body of a request: JSON, of bounded size, in bounded time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request

from .errors import WireError

MOST_BYTES = 16 * 2**20
"""Of a body; a long context is a few MB."""

MOST_SECONDS = 30.0
"""In which a client has to send it."""


async def json_body(request: Request, *, seconds: float | None, most_bytes: int) -> Any:
    """The body, parsed.

    Args:
        seconds: how long it may take to come; None where it is there.

    Raises:
        WireError: it is too long, too slow, or no JSON.
        starlette.requests.ClientDisconnect: the connection ended before it was there.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise WireError("send the body as it is, without content-encoding", status=415, close=True)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most_bytes:
        raise _too_long(most_bytes)
    reading = _read(request, most_bytes)
    if seconds is None:
        return _parsed(await reading)
    try:
        return _parsed(await asyncio.wait_for(reading, seconds))
    except asyncio.TimeoutError:
        raise WireError(
            f"the body did not come within {seconds:g} seconds", status=408, close=True
        ) from None


async def _read(request: Request, most_bytes: int) -> bytes:
    parts = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > most_bytes:
            raise _too_long(most_bytes)
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except RecursionError:
        raise _no_json("it is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, a number of too many digits
        raise _no_json(str(error)) from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _no_json(why: str) -> WireError:
    return WireError(f"the body could not be parsed as JSON: {why}", code="invalid_json")


def _too_long(most_bytes: int) -> WireError:
    return WireError(
        f"the body is longer than {most_bytes} bytes",
        code="request_too_large",
        status=413,
        close=True,
    )
