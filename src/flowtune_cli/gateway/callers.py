"""Who makes a request: the flow's own process, or a program at the other end of a connection."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from starlette.requests import Request

from ..flow.episode import RequestError
from .door import Door
from .doors import Admitted, Doors
from .errors import WireError

SCOPE = "flowtune"
"""Where in the scope of a request in process its ``InProcess`` is."""


@dataclass(frozen=True)
class InProcess:
    """A request of the flow's own process.

    Args:
        place: the file and line that made it.
    """

    door: Door
    place: str


class Caller(Protocol):
    """Makes what a request asks for, once."""

    door: Door

    async def result(
        self, digest: Callable[[], str], make: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Any:
        """The result of ``make(place=...)``, which is run on the flow's own loop.

        Args:
            digest: gives that of what is asked, which is needed for those outside alone.

        Raises:
            WireError: the flow has ended, as far as a program outside is told.
        """

    def note_error(self, message: str, code: str | None) -> None:
        """The request is answered with an error, which the program may catch."""


def caller_of(request: Request, doors: Doors) -> tuple[Caller, str]:
    """Who makes a request, and its path from ``/v1`` on.

    Raises:
        WireError: it comes from outside, and has no episode's token.
    """
    path: str = request.scope["path"]
    inside: InProcess | None = request.scope.get(SCOPE)
    if inside is not None:
        return Inside(inside), path
    _, e, episode_id, rest = [*path.split("/", 3), "", "", ""][:4]
    authorization = request.headers.get("authorization", "")
    admitted = doors.find(episode_id if e == "e" else "", authorization)
    return Outside(admitted, request, f"/{rest}"), f"/{rest}"


class Inside:
    """A caller whose task, or whose thread's task, is the flow's own."""

    def __init__(self, request: InProcess) -> None:
        self.door = request.door
        self._place = request.place

    async def result(
        self, digest: Callable[[], str], make: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Any:
        """See ``Caller``."""
        return await make(place=self._place)

    def note_error(self, message: str, code: str | None) -> None:
        """See ``Caller``."""
        self.door.note_error(RequestError(message, code, self._place))


class Outside:
    """A caller at the other end of a connection."""

    def __init__(self, admitted: Admitted, request: Request, path: str) -> None:
        self.door = admitted.door
        self._parked = admitted.parked
        self._request = request
        self._place = f"{request.method} {path}, a request from outside"

    async def result(
        self, digest: Callable[[], str], make: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Any:
        """See ``Caller``."""
        retries = self._request.headers.get("x-stainless-retry-count", "0")
        try:
            return await self._parked.answer(
                digest(),
                lambda: self.door.submit(partial(make, place=self._place)),
                self._gone,
                retried=retries.isdecimal() and int(retries[:9]) > 0,
            )
        except concurrent.futures.CancelledError:
            raise self._over() from None

    def note_error(self, message: str, code: str | None) -> None:
        """See ``Caller``."""
        self.door.note_error(RequestError(message, code))

    async def _gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _over(self) -> WireError:
        failure = self.door.failure
        if failure is None:
            return WireError(
                "the episode has ended, or nothing of it is needed any more",
                code="episode_over",
                status=410,
            )
        return WireError(f"the episode has failed: {failure}", code="episode_failed", status=422)
