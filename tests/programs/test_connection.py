"""What programs ask of the gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.programs import connection


@dataclass(frozen=True)
class Place:
    base_url: str
    api_key: str


class Server:
    """As the gateway's: an episode is admitted at a new address, or again at one it had."""

    def __init__(self) -> None:
        self.admits: dict[str, Any] = {}
        self.made = 0

    @contextmanager
    def admitted(self, episode: Any, again: Place | None = None) -> Iterator[Place]:
        self.made += again is None
        place = again or Place(f"http://{self.made}", f"key-{self.made}")
        self.admits[place.api_key] = episode
        yield place
        del self.admits[place.api_key]


def test_an_address_serves_one_episode_after_another() -> None:
    server = Server()
    address = connection._Address(server)
    first: Any = object()
    second: Any = object()
    address.serve(first)
    assert (address.base_url, address.api_key) == ("http://1", "key-1")
    assert server.admits == {"key-1": first}
    address.serve(None)
    assert server.admits == {}
    address.serve(second)
    assert server.admits == {"key-1": second}
    other = connection._Address(server)
    other.serve(first)
    assert other.api_key == "key-2"
    address.close()
    assert server.admits == {"key-2": first}


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gateway", "gateway.app", "gateway.client", "gateway.server"):
        monkeypatch.setitem(sys.modules, f"flowtune_cli.{module}", None)
    with pytest.raises(UsageError, match="a program as a task needs the package"):
        connection.open_door({})
