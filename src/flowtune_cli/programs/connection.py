"""How a program reaches the nodes of its episode: all that programs know of the gateway."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable, Mapping
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


Models = Mapping[str, Mapping[str, str]]
"""Models of other servers, by name: ``base_url``, and maybe ``model`` and ``api_key_env``."""

NO_MODELS: Models = {}

_doors: weakref.WeakKeyDictionary[FlowLoop, dict[str, Door]] = weakref.WeakKeyDictionary()


def door(models: Models = NO_MODELS) -> Door:
    """The door of the event loop that runs.

    Args:
        models: that are passed through to other servers.

    Raises:
        UsageError: a package is not installed that it needs, or a model is not declared rightly.
    """
    doors = _doors.setdefault(running_loop(), {})
    key = json.dumps(models, sort_keys=True)
    if key not in doors:
        doors[key] = open_door(models)
    return doors[key]


def open_door(models: Models) -> Door:
    """The gateway's door."""
    try:
        from ..gateway import app, client, server
    except ImportError as error:
        raise missing_package("a program as a task", str(error.name), "gateway") from error
    gateway = app.Gateway(models)
    return _Gateway(client, gateway, lambda: server.Server(gateway))


class _Gateway:
    """The gateway as a ``Door``: its clients in this process, and its server on the loopback."""

    def __init__(self, client: Any, gateway: Any, serve: Callable[[], Any]) -> None:
        self._client = client
        self._gateway = gateway
        self._serve = serve
        self._server: Any = None

    def async_client(self, episode: Episode) -> Any:
        """See ``Door``."""
        return self._client.async_client(episode, self._gateway)

    def client(self, episode: Episode) -> Any:
        """See ``Door``."""
        return self._client.client(episode, self._gateway)

    def address(self) -> Address:
        """See ``Door``. The server is started for the first one."""
        if self._server is None:
            self._server = self._serve()
            weakref.finalize(self, self._server.close)
        return _Address(self._server)


class _Address:
    """An address of the gateway's server. A later episode is admitted at the same one."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._known: Any = None
        self._admitted = contextlib.ExitStack()

    @property
    def base_url(self) -> str:
        """See ``Address``."""
        return str(self._known.base_url)

    @property
    def api_key(self) -> str:
        """See ``Address``."""
        return str(self._known.api_key)

    def serve(self, episode: Episode | None) -> None:
        """See ``Address``."""
        self._admitted.close()
        if episode is not None:
            again = {} if self._known is None else {"again": self._known}
            admitted = self._server.admitted(episode, **again)
            self._known = self._admitted.enter_context(admitted)

    def close(self) -> None:
        """See ``Address``."""
        self.serve(None)
