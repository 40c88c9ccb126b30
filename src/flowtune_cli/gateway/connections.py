"""Work for a client that may go away meanwhile, and whom a server without a key may answer."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import Message, Send

from .errors import WireError
from .parked import ClientGone


class Sender:
    """Sends a response, and notes how far it is.

    Attributes:
        status: of the response; 0 before it begins.
        ended: all of it was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.ended = False

    async def __call__(self, message: Message) -> None:
        """See the ASGI specification."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.ended = True
        await self._send(message)


async def while_connected(
    request: Request, sender: Sender, work: Coroutine[Any, Any, None]
) -> None:
    """Do what a client waits for, whose request was read; it is cancelled if the client goes away.

    Raises:
        ClientGone: it went away.
    """
    task = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        # The connection also ends when all was sent.
        if not task.done() and not sender.ended:
            raise ClientGone
        await task
    finally:
        for each in (task, watching):
            each.cancel()
        await asyncio.gather(task, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_local(request: Request) -> None:
    """Refuse what another site's page has a browser of this machine ask, as there is no key.

    Raises:
        WireError: the request names another host, or comes from another site's page.
    """
    for url in (f"//{request.headers.get('host', '')}", request.headers.get("origin", "")):
        if url and not is_loopback(_host_of(url)):
            raise WireError(
                "without a key, only programs of this machine are answered, under the name"
                " localhost or 127.0.0.1",
                code="forbidden_host",
                status=403,
                close=True,
            )


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
