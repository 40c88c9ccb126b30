"""Calls that came over a connection: one whose connection is gone waits for the client's retry.

The ``openai`` clients send a request again when a connection breaks or takes too long. That is no
new call of the flow: it gets the answer of the call that is under way.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

KEPT_SECONDS = 60.0
"""How long a call waits for a retry; then it is cancelled."""

TAKE_OVER_SECONDS = 1.0
"""How long a retry waits until it shows that the connection before it is gone."""

CHECK_SECONDS = 1.0
"""How often it is looked whether the flow still runs."""


class ClientGone(Exception):
    """The connection was dropped; there is nobody to answer."""


@dataclass(eq=False)
class Parked:
    """A call under way.

    Attributes:
        connected: there is a connection that waits for it.
        left: set when there is none.
    """

    future: concurrent.futures.Future[Any]
    connected: bool = True
    left: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None


@dataclass
class ParkedCalls:
    """The calls of one episode. It is used on the server's loop alone.

    Args:
        over: whether the episode's flow has ended.
        kept_seconds: how long a call whose connection is gone waits for a retry.
    """

    over: Callable[[], bool]
    kept_seconds: float
    _calls: dict[str, list[Parked]] = field(default_factory=dict)

    async def answer(
        self,
        digest: str,
        start: Callable[[], concurrent.futures.Future[Any]],
        gone: Callable[[], Awaitable[Any]],
        *,
        retried: bool,
    ) -> Any:
        """The result of a call: of a new one, or of one whose connection is gone.

        Args:
            digest: of what is asked; requests that ask for the same have the same one.
            start: makes a new call.
            gone: awaits the end of the connection.
            retried: the client says that it has asked before.

        Raises:
            ClientGone: the connection is dropped before there is an answer.
            concurrent.futures.CancelledError: the flow has ended.
            Exception: the call's own.
        """
        parked = await self._taken_over(digest, retried)
        if parked is None:
            parked = Parked(start())
            self._calls.setdefault(digest, []).append(parked)
        watching = asyncio.ensure_future(gone())
        answered = asyncio.wrap_future(parked.future)
        try:
            while not (answered.done() or watching.done()):
                await asyncio.wait(
                    {answered, watching},
                    timeout=CHECK_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if self.over() and not parked.future.done():
                    parked.future.cancel()
        finally:
            dropped = watching.done()
            watching.cancel()
            # It is not cancelled where nobody waits: the call itself would be.
            answered.add_done_callback(_looked_at)
            if dropped or not parked.future.done():
                self._leave(digest, parked)
            else:
                self._forget(digest, parked)
        if dropped:
            raise ClientGone
        return parked.future.result()

    async def _taken_over(self, digest: str, retried: bool) -> Parked | None:
        calls = self._calls.get(digest, [])
        if retried and calls and all(parked.connected for parked in calls):
            # The retry may come before the end of the connection that it replaces is noticed.
            waiting = [asyncio.ensure_future(parked.left.wait()) for parked in calls]
            await asyncio.wait(
                waiting, timeout=TAKE_OVER_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            for each in waiting:
                each.cancel()
        for parked in self._calls.get(digest, []):
            if not parked.connected:
                parked.connected = True
                parked.left.clear()
                if parked.timer is not None:
                    parked.timer.cancel()
                return parked
        return None

    def _leave(self, digest: str, parked: Parked) -> None:
        parked.connected = False
        parked.left.set()
        loop = asyncio.get_running_loop()
        parked.timer = loop.call_later(self.kept_seconds, self._give_up, digest, parked)

    def _give_up(self, digest: str, parked: Parked) -> None:
        parked.future.cancel()
        self._forget(digest, parked)

    def _forget(self, digest: str, parked: Parked) -> None:
        calls = self._calls.get(digest, [])
        if parked in calls:
            calls.remove(parked)
        if not calls:
            self._calls.pop(digest, None)


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Its error is not left unnoticed where nobody is there any more."""
    if not future.cancelled():
        future.exception()
