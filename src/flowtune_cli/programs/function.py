"""A task's program that is a Python function: ``async def run(example, client)``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..flow.episode import Episode
from ..flow.errors import UsageError
from . import connection
from .loading import function_place, load_function

_GIVEN = ("client", "base_url", "api_key")


class FunctionProgram:
    """Calls a function for each example.

    Its first parameter is the example; others are found by name: ``client``, an
    ``openai.AsyncOpenAI`` (for a plain function, which runs in a thread, an ``openai.OpenAI``), or
    ``base_url`` and ``api_key`` of an address to make a client for.

    Args:
        models: of other servers, which it may ask, too.

    Raises:
        UsageError: the function cannot be loaded, or has other parameters.
    """

    def __init__(self, text: str, models: connection.Models = connection.NO_MODELS) -> None:
        self.models = models
        self.place = function_place(text)
        self.function = load_function(text)
        self.is_async = inspect.iscoroutinefunction(self.function)
        self.given = _given(self.function, str(self.place))

    async def play(self, episode: Episode, example: Mapping[str, Any]) -> Any:
        """What the function returns."""
        if not {"base_url", "api_key"}.isdisjoint(self.given):
            address = connection.door(self.models).address()
            address.serve(episode)
            try:
                return await self._called(episode, example, address)
            finally:
                address.close()
        return await self._called(episode, example, None)

    async def _called(
        self, episode: Episode, example: Mapping[str, Any], address: connection.Address | None
    ) -> Any:
        arguments: dict[str, Any] = {}
        if "client" in self.given:
            door = connection.door(self.models)
            make = door.async_client if self.is_async else door.client
            arguments["client"] = make(episode)
        for name in ("base_url", "api_key"):
            if name in self.given:
                arguments[name] = getattr(address, name)
        if self.is_async:
            return await self.function(example, **arguments)
        result = await asyncio.to_thread(self.function, example, **arguments)
        return await result if inspect.isawaitable(result) else result


def _given(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Which parameters it is given besides the example."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} has no signature that could be read: {error}") from None
    rule = (
        f"write 'async def {name.rpartition(':')[2]}(example, client)'; further parameters may be"
        " base_url and api_key, and others need defaults"
    )
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if not parameters or parameters[0].kind not in positional or parameters[0].name in _GIVEN:
        raise UsageError(f"{name} does not take the example as its first parameter: {rule}")
    given = []
    for parameter in parameters[1:]:
        if parameter.name in _GIVEN and parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            given.append(parameter.name)
        elif parameter.default is parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise UsageError(f"{name} has a parameter '{parameter.name}' that nobody gives: {rule}")
    return tuple(given)
