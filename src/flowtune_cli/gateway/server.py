"""The app on the loopback, for programs outside: each episode has an address and a token."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from ..flow.episode import Episode
from ..flow.errors import FlowtuneError
from .app import Gateway
from .uvicorn_config import uvicorn_config

HOST = "127.0.0.1"
START_SECONDS = 10.0
CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Address:
    """Where a program reaches its episode: ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``."""

    base_url: str
    api_key: str = field(repr=False)


class Server:
    """uvicorn in a thread, on a free port of the loopback; close it in the end.

    Args:
        gateway: the app.

    Raises:
        FlowtuneError: it does not start.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms an answer.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.bind((HOST, 0))
        except OSError as error:
            self._socket.close()
            raise FlowtuneError(f"no port of {HOST} can be had: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn_config(gateway, stopping_seconds=1))
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="gateway", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise FlowtuneError("the gateway's server did not start")
            time.sleep(0.005)

    @contextmanager
    def admitted(self, episode: Episode, again: Address | None = None) -> Iterator[Address]:
        """Let a program reach an episode, within; in the episode's own flow.

        Args:
            again: the address of an earlier episode, for a program that plays one after another;
                None makes a new one.

        Raises:
            ValueError: that episode can still be reached.
        """
        known = None if again is None else (again.base_url.split("/")[-2], again.api_key)
        with self.gateway.doors.admitted(episode, known) as one:
            yield Address(f"http://{HOST}:{self.port}/e/{one.id}/v1", one.token)

    def close(self) -> None:
        """Stop it; requests under way are dropped."""
        self._server.should_exit = True
        self._thread.join(CLOSING_SECONDS)
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
