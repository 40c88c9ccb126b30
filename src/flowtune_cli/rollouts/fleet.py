"""All servers together: which decodes what, which adapters they hold, and what if one is gone.

A server that is gone is asked again and again. As soon as it answers it gets the adapters that are
in use, and only then requests. Meanwhile the others decode what it had to.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError  # its own before Python 3.11
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..flow.errors import FlowtuneError, UsageError
from .server import Ask, Gone, Served, Server, UnknownModel, Written

T = TypeVar("T")

_ATTEMPTS = 4
"""How often an output is asked for, where servers are there and then fail."""
_CHECK_SECONDS = 0.5
_PAUSE = 1.0
"""Seconds from one question whether a server is back to the next."""


@dataclass(eq=False)
class _Member:
    """A server with what is known of it."""

    server: Server
    base: str = ""
    context: int | None = None
    there: bool = True
    back: asyncio.Task[None] | None = None
    # Held while adapters are loaded: two loads of one name would be one too many.
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Fleet:
    """Servers that hold the same base model and the same adapters.

    All of it happens on an event loop in a thread; other threads hand in coroutines.

    Args:
        urls: of the servers.
        key: the API key that they want, if they want one.
        patience: seconds within which a server answers, or comes back.

    Attributes:
        check: called now and then while something is waited for; may raise, which ends that.
    """

    def __init__(self, urls: Sequence[str], key: str | None, patience: float) -> None:
        self.patience = patience
        self.check: Callable[[], None] = _nothing
        self._adapters: dict[str, str] = {}
        self._failed: FlowtuneError | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()

        async def members() -> tuple[list[_Member], asyncio.Condition]:
            found = [_Member(Server(url, key, patience)) for url in urls]
            return found, asyncio.Condition()

        self._members, self._changed = self.wait(members())

    def close(self) -> None:
        """Leave the servers as they are, and end the thread."""

        async def close() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for member in self._members:
                await member.server.close()

        if self._loop.is_closed():
            return
        self.wait(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the servers' loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the servers' loop, and wait for its result."""
        future = self.submit(coroutine)
        try:
            while True:
                with suppress(TimeoutError, FuturesTimeoutError):
                    return future.result(_CHECK_SECONDS)
                self.check()
        finally:
            future.cancel()  # where a Ctrl-C has ended the waiting

    @property
    def urls(self) -> list[str]:
        """Those of the servers."""
        return [member.server.url for member in self._members]

    # What is asked of all servers

    async def meet(self) -> list[Served]:
        """Ask each server for the first time what it offers.

        Raises:
            UsageError: one does not answer.
        """
        return [await self._meet(member) for member in self._members]

    async def _meet(self, member: _Member) -> Served:
        try:
            served = await member.server.served()
        except Gone as gone:
            raise UsageError(
                f"no server of vLLM answers at {member.server.url} ({gone}). Start it, set"
                " engine.vllm.urls to where it is, or set engine.rollouts = 'local'"
            ) from None
        member.base, member.context = served.base, served.context
        return served

    async def load(self, name: str, path: str) -> None:
        """Have all servers hold an adapter; those that are gone get it when they are back.

        Raises:
            UsageError: one cannot read it.
            FlowtuneError: a server is gone for good.
        """
        self._adapters[name] = path
        try:
            await asyncio.gather(*(self._load(member, name, path) for member in self._members))
        except UsageError:
            await self.unload(name)
            raise
        await self._some()

    async def _load(self, member: _Member, name: str, path: str) -> None:
        async with member.loading:
            if not member.there:
                return
            try:
                await member.server.load(name, path)
            except Gone as gone:
                self._lose(member, gone)

    async def unload(self, name: str) -> None:
        """Have all servers forget an adapter that no request names any more."""
        self._adapters.pop(name, None)
        for member in self._members:
            async with member.loading:
                with suppress(Gone):
                    if member.there:
                        await member.server.unload(name)

    async def unload_below(self, directory: str) -> None:
        """Have all servers forget the adapters that were read from below a directory."""
        for member in self._members:
            with suppress(Gone):
                served = await member.server.served()
                for name, path in served.adapters.items():
                    if path.startswith(f"{directory}/"):
                        await member.server.unload(name)

    # What one of them does

    async def complete(self, model: str | None, ask: Ask, only: str | None = None) -> Written:
        """Have an output decoded.

        Args:
            model: the name of an adapter that is loaded; None is the base model.
            only: the URL of the one server that may decode it; else any may.

        Raises:
            FlowtuneError: a server does not know the adapter, refuses, or is gone for good.
        """
        # One prompt goes to one server, whose cache then has it for the next output.
        number = zlib.crc32(repr(ask.prompt).encode())
        reason = ""
        for _ in range(_ATTEMPTS):
            there = await self._some(only)
            member = there[number % len(there)]
            try:
                return await member.server.complete(model or member.base, ask)
            except Gone as gone:
                reason = str(gone)
                self._lose(member, gone)
            except UnknownModel as unknown:
                await self._forgotten(member, unknown)
                reason = str(unknown)
        raise FlowtuneError(
            f"{member.server.url} failed {_ATTEMPTS} times to decode an output: {reason}"
        )

    async def _forgotten(self, member: _Member, unknown: UnknownModel) -> None:
        """A server lacks an adapter: begin anew with it if it has none of them, being a new one.

        Raises:
            FlowtuneError: it has others.
        """
        try:
            held = (await member.server.served()).adapters
        except Gone as gone:
            self._lose(member, gone)
            return
        lacking = [name for name, path in self._adapters.items() if held.get(name) != path]
        if not lacking or not member.there:
            return  # it was started anew, and has got them meanwhile or will
        if len(lacking) < len(self._adapters):
            raise FlowtuneError(
                f"{member.server.url} no longer knows an adapter of this run, and knows others of"
                f" it: something else unloads adapters there ({unknown}). The base model's outputs"
                " are not taken in its place."
            )
        self._lose(member, Gone("it lost all adapters, as a server that was started anew"))

    async def _some(self, only: str | None = None) -> list[_Member]:
        """The servers that are there, or the one of this URL; waits for one.

        Raises:
            FlowtuneError: one is gone for good.
        """

        def there() -> list[_Member]:
            chosen = (m for m in self._members if only is None or m.server.url == only)
            return [member for member in chosen if member.there]

        async with self._changed:
            await self._changed.wait_for(lambda: self._failed is not None or bool(there()))
        if self._failed is not None:
            raise self._failed
        return there()

    # A server that is gone

    def _lose(self, member: _Member, gone: Gone) -> None:
        if not member.there:
            return
        member.there = False
        _say(f"{member.server.url} is gone ({gone}): waiting for it to come back")
        member.back = asyncio.ensure_future(self._regain(member))

    async def _regain(self, member: _Member) -> None:
        """Ask a server until it answers, and give it the adapters."""
        lost = time.monotonic()
        try:
            while not await self._has_come_back(member):
                if time.monotonic() - lost > self.patience:
                    raise FlowtuneError(
                        f"{member.server.url} was gone for {self.patience:g} seconds"
                        " (engine.vllm.timeout). Start it again, or set engine.vllm.urls to others"
                    )
                await asyncio.sleep(_PAUSE)
        except FlowtuneError as error:
            self._failed = error
        else:
            _say(f"{member.server.url} is back, with {len(self._adapters)} adapters")
        async with self._changed:
            self._changed.notify_all()

    async def _has_come_back(self, member: _Member) -> bool:
        async with member.loading:
            try:
                served = await member.server.served()
                if (served.base, served.context) != (member.base, member.context):
                    raise UsageError(
                        f"{member.server.url} came back with another base model or context:"
                        f" {served.base} with {served.context} tokens, before {member.base} with"
                        f" {member.context}"
                    )
                for name, path in list(self._adapters.items()):
                    if served.adapters.get(name) != path:
                        await member.server.load(name, path)
            except Gone:
                return False
            member.there = True  # before the lock is free, as the next adapter comes by it
            return True


def _say(text: str) -> None:
    print(f"vLLM: {text}", file=sys.stderr, flush=True)


def _nothing() -> None:
    """Nobody wants to end anything."""
