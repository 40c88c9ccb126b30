"""How a program reaches the nodes of its episode: all that programs know of the gateway."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from ..flow.episode import Episode
from ..flow.errors import missing_package
from ..runtime.event_loop import FlowLoop, running_loop


class Address(Protocol):
    """Where a program outside finds its nodes; only whoever has the key is let in.

    Attributes:
        base_url: for ``OPENAI_BASE_URL``.
        api_key: for ``OPENAI_API_KEY``; no two addresses have the same.
    """

    @property
    def base_url(self) -> str:
        """See above."""

    @property
    def api_key(self) -> str:
        """See above."""

    def serve(self, episode: Episode | None) -> None:
        """From here on, requests are calls of this episode; None: they are refused."""

    def close(self) -> None:
        """Refuse whatever comes."""


class Door(Protocol):
    """Opens the nodes of episodes to programs."""

    def async_client(self, episode: Episode) -> Any:
        """An ``openai.AsyncOpenAI`` whose requests are calls of this episode."""

    def client(self, episode: Episode) -> Any:
        """An ``openai.OpenAI`` of that kind, for a thread."""

    def address(self) -> Address:
        """A new address. Its URL and key are known when it has served an episode."""


_doors: weakref.WeakKeyDictionary[FlowLoop, Door] = weakref.WeakKeyDictionary()


def door() -> Door:
    """The door of the event loop that runs.

    Raises:
        UsageError: a package is not installed that it needs.
    """
    loop = running_loop()
    if loop not in _doors:
        _doors[loop] = open_door(loop)
    return _doors[loop]


def open_door(loop: FlowLoop) -> Door:
    """The gateway's door."""
    try:
        from ..gateway import client, server
    except ImportError as error:
        raise missing_package("a program as a task", str(error.name), "gateway") from error
    return _Gateway(loop, client, server)


class _Gateway:
    """The gateway as a ``Door``: its clients in this process, and its server on the loopback."""

    def __init__(self, loop: FlowLoop, client: Any, server: Any) -> None:
        self._client = client
        self._serve = lambda: server.serve(loop)
        self._server: Any = None

    def async_client(self, episode: Episode) -> Any:
        """See ``Door``."""
        return self._client.async_client(episode)

    def client(self, episode: Episode) -> Any:
        """See ``Door``: it finds the episode by the context, which a thread has a copy of."""
        return self._client.client()

    def address(self) -> Address:
        """See ``Door``."""
        if self._server is None:
            self._server = self._serve()
            weakref.finalize(self, self._server.close)
        return _Address(self._server)


class _Address:
    """An address of the gateway's server, made for its first episode and moved to later ones."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.base_url = self.api_key = ""

    def serve(self, episode: Episode | None) -> None:
        """See ``Address``."""
        if self.api_key:
            self._server.move(self.api_key, episode)
        elif episode is not None:
            self.base_url, self.api_key = self._server.url(episode)

    def close(self) -> None:
        """See ``Address``."""
        self.serve(None)
