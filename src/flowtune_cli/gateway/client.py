"""Clients of the ``openai`` package whose requests stay in this process.

    client = async_client()                # reaches the episode whose flow runs
    client = openai.OpenAI(base_url=BASE_URL, api_key="none", http_client=http_client())

A client may be made once, for a module, and used by all flows. A synchronous one is used in threads
of ``asyncio.to_thread``, as it would hold up the event loop.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import httpx2
import openai

from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..runtime.flow_run import Ended
from ..runtime.play import CURRENT_EPISODE
from .app import Gateway
from .callers import SCOPE, InProcess
from .door import Door
from .errors import WireError

BASE_URL = "http://flowtune/v1"
"""The ``base_url`` of a client in process; nothing is looked up by it."""

_KEY = "in-process"
_PASSED_OVER = {"anyio", "asyncio", "httpx", "httpx2", "openai"}
"""Packages whose lines are not those that made a request."""

_default = Gateway()


class _AsyncOpenAI(openai.AsyncOpenAI):
    """Knows the platform, which it would else find out in a thread before its first request: of two
    first requests side by side, either might then be the flow's first call.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._platform = "Unknown"


def async_client(episode: Episode | None = None, gateway: Gateway = _default) -> openai.AsyncOpenAI:
    """An ``openai.AsyncOpenAI`` for flows.

    Args:
        episode: the one that it reaches; None is the one whose flow runs.
        gateway: knows the models that are passed through.
    """
    return _AsyncOpenAI(
        base_url=BASE_URL,
        api_key=_KEY,
        http_client=http_async_client(episode, gateway),
        max_retries=0,
    )


def client(episode: Episode | None = None, gateway: Gateway = _default) -> openai.OpenAI:
    """An ``openai.OpenAI`` for threads of ``asyncio.to_thread``; see ``async_client``."""
    return openai.OpenAI(
        base_url=BASE_URL,
        api_key=_KEY,
        http_client=http_client(episode, gateway),
        max_retries=0,
    )


def http_async_client(
    episode: Episode | None = None, gateway: Gateway = _default
) -> httpx2.AsyncClient:
    """The ``http_client`` of an ``openai.AsyncOpenAI`` that a program makes itself."""
    return httpx2.AsyncClient(transport=AsyncTransport(episode, gateway))


def http_client(episode: Episode | None = None, gateway: Gateway = _default) -> httpx2.Client:
    """The ``http_client`` of an ``openai.OpenAI`` that a program makes itself."""
    return httpx2.Client(transport=Transport(episode, gateway))


class AsyncTransport(httpx2.AsyncBaseTransport):
    """Hands requests to the app, in the task that makes them, so that the call is the flow's."""

    def __init__(self, episode: Episode | None, gateway: Gateway) -> None:
        self._episode = episode
        self._gateway = gateway

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx."""
        try:
            door = _door(self._episode)
        except WireError as error:
            return _refused(error)
        handled = partial(_handled, self._gateway, InProcess(door, _place()), request)
        if asyncio.get_running_loop() is door.loop:
            return await handled()
        # A loop of the program's own, in a thread.
        try:
            return await asyncio.wrap_future(door.submit(handled))
        except asyncio.CancelledError:
            if door.over:
                raise Ended from None
            raise


class Transport(httpx2.BaseTransport):
    """The same for a thread, which waits meanwhile."""

    def __init__(self, episode: Episode | None, gateway: Gateway) -> None:
        self._episode = episode
        self._gateway = gateway

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx."""
        try:
            door = _door(self._episode)
        except WireError as error:
            return _refused(error)
        place = _place()
        if _runs_here(door.loop):
            door.fail(
                UsageError(
                    "a synchronous client was used on the flow's own event loop, which would wait"
                    " for itself. Use an asynchronous one, or await asyncio.to_thread(...)"
                    f" ({place})"
                )
            )
        # What is sent is read here, in this thread.
        sent = httpx2.Request(
            request.method, request.url, headers=request.headers, content=request.read()
        )
        future = door.submit(partial(_handled, self._gateway, InProcess(door, place), sent))
        got = door.wait(future)
        return httpx2.Response(got.status_code, headers=got.headers, content=got.content)


async def _handled(gateway: Gateway, inside: InProcess, request: httpx2.Request) -> httpx2.Response:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gateway({**scope, SCOPE: inside}, receive, send)

    response = await httpx2.ASGITransport(app=app).handle_async_request(request)
    await response.aread()
    return response


def _door(episode: Episode | None) -> Door:
    found = CURRENT_EPISODE.get() if episode is None else episode
    if found is None:
        raise WireError(
            "no flow runs here: a client in process is used in a flow's own tasks, or in threads of"
            " asyncio.to_thread (another thread is to be started with"
            " contextvars.copy_context().run)",
            code="no_episode",
        )
    try:
        return Door(found)
    except UsageError as error:
        raise WireError(str(error), code="no_episode") from None


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _refused(error: WireError) -> httpx2.Response:
    made = error.response()
    headers = list(made.raw_headers)
    return httpx2.Response(made.status_code, headers=headers, content=bytes(made.body))


def _place() -> str:
    """The file and line of the program that makes the request that is handled now."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _PASSED_OVER and name != __name__:
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"
