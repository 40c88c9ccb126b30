"""Listens for programs until it is told to stop; then what runs is finished in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from ..flow.errors import FlowtuneError, UsageError
from .connections import is_loopback
from .serving import Serving
from .uvicorn_config import BACKLOG, uvicorn_config

STOPPING_SECONDS = 25.0
"""How long what runs may take when the server is stopped; orchestrators wait for 30."""

KEEP_ALIVE_SECONDS = 75
"""How long a connection may idle: longer than clients and proxies keep theirs, so that a request
does not meet a connection that is being closed."""


class Listener:
    """The app at an address. It runs in the caller's thread.

    Args:
        port: 0 picks a free one.
        stopping_seconds: how long what runs may take when the server is stopped.

    Attributes:
        url: where it is reached, up to "/v1".

    Raises:
        UsageError: others than this machine could reach it, and there is no key.
        FlowtuneError: the address cannot be had.
    """

    def __init__(
        self,
        serving: Serving,
        host: str,
        port: int,
        *,
        stopping_seconds: float = STOPPING_SECONDS,
    ) -> None:
        check_address(host, has_key=serving.has_key)
        self._serving = serving
        self._socket = _bound(host, port)
        found = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{found}/v1"
        config = uvicorn_config(
            serving,
            stopping_seconds=max(1, round(stopping_seconds)),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = _Server(config)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Answer requests until ``stop`` is called.

        Args:
            on_ready: called when requests are answered.
        """
        self._server.on_ready = on_ready
        try:
            asyncio.run(self._server.serve([self._socket]))
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Take no more requests, and return from ``run`` when those that run are answered.

        It may be called from a signal handler.
        """
        self._serving.stopping = True
        self._server.should_exit = True


def check_address(host: str, *, has_key: bool) -> None:
    """Refuse an address that others can reach, where there is no key.

    Raises:
        UsageError: it is one.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            f"at the host {host}, others than programs of this machine could ask: set the"
            " environment variable FLOWTUNE_API_KEY to a key that they have to send, or leave"
            " --host out"
        )


class _Server(uvicorn.Server):
    """Leaves signals to the command, and says when it has begun."""

    on_ready: Callable[[], None]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_ready()


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms an answer.
        made = socket.socket(family, kind, socket.IPPROTO_TCP)
    except OSError as error:
        raise FlowtuneError(f"the host {host} cannot be found: {error}") from error
    try:
        # A server that is started again need not wait for the old one's connections.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise FlowtuneError(
            f"port {port} of {host} cannot be had: {error}. Choose another one by --port"
        ) from error
    return made
