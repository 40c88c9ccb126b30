"""The reward of a program: ``rewards.py:score``, a function of the example and the result."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..flow.effect import strict_json
from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..flow.numbers import real_number
from ..runtime.effects import REWARD
from ..runtime.recording import text_digest
from ..runtime.replay import Replay
from .loading import function_place, load_function

Values = Mapping[str, "float | None"]
"""Each reward by name; None is undefined."""

_AT_ONCE = 32


def reward_name(text: str) -> str:
    """What a reward that is a single number is called: as its function."""
    return function_place(text).name


class Reward:
    """A function of (example, result) that returns a number or a mapping of numbers.

    A plain function must be quick, as all else waits for it. An ``async`` one may take its time: it
    is an effect, so it runs beside all else. Either is called once for equal results of an episode
    and its rollouts, and a run that is resumed has what it returned. What it is given are copies,
    so that it may change them.

    Raises:
        UsageError: it cannot be loaded, or does not take two arguments.
    """

    def __init__(self, text: str) -> None:
        self.place = function_place(text)
        self.name = self.place.name
        self.function = load_function(text)
        self.is_async = inspect.iscoroutinefunction(self.function)
        takes(self.function, str(self.place), "example", "result")

    async def report(self, episode: Episode, example: Mapping[str, Any], result: Any) -> None:
        """Report the rewards of an episode's result.

        Raises:
            ValueError: one of them is no finite number.
        """
        given, judged = copy.deepcopy((dict(example), result))
        if self.is_async:
            values = self._values(await episode.effect(self.function, given, judged))
        else:
            values = self._remembered(episode, given, judged)
        for name, number in values.items():
            episode.reward(name, number)

    def _remembered(self, episode: Episode, example: dict[str, Any], result: Any) -> Values:
        """The rewards of a plain function."""
        assert isinstance(episode.runner, Replay)
        judged = strict_json([example, result], f"what {self.place} is given", sort_keys=True)
        values: Values = episode.runner.effects.remembered(
            (REWARD, self.name, text_digest(judged)),
            lambda: self._values(self.function(example, result)),
        )
        return values

    def of_all(self, pairs: Sequence[tuple[Mapping[str, Any], Any]]) -> list[Values]:
        """The rewards of results, outside of any episode; a few are asked for at once."""
        copies = [copy.deepcopy((dict(example), result)) for example, result in pairs]
        if not self.is_async:
            return [self._values(self.function(example, result)) for example, result in copies]
        return asyncio.run(self._of_all(copies))

    async def _of_all(self, pairs: Sequence[tuple[dict[str, Any], Any]]) -> list[Values]:
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(example: dict[str, Any], result: Any) -> Values:
            async with places:
                return self._values(await self.function(example, result))

        return await asyncio.gather(*(one(*pair) for pair in pairs))

    def _values(self, value: Any) -> Values:
        """What the function returned, as numbers by name."""
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()  # else Python warns of it, too, somewhere else
            raise ValueError(
                f"{self.place} returned what was not awaited: make it 'async def', and write"
                " 'await' before what it returns"
            )
        named = value if isinstance(value, Mapping) else {self.name: value}
        numbers: dict[str, float | None] = {}
        for name, each in named.items():
            try:
                numbers[str(name)] = None if each is None else real_number(each)
            except ValueError as error:
                raise ValueError(
                    f"reward '{name}' of {self.place} {error}, or None where it is undefined"
                ) from None
        return numbers


def takes(function: Any, name: str, *arguments: str) -> None:
    """Check that a function can be called with so many arguments.

    Raises:
        UsageError: it cannot, or its parameters have these names in another order.
    """
    try:
        signature = inspect.signature(function)
        signature.bind(*arguments)
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called with ({', '.join(arguments)}): {error}"
        ) from None
    except ValueError:  # it has no signature that could be read
        return
    names = [parameter for parameter in signature.parameters if parameter in arguments]
    if names != [argument for argument in arguments if argument in names]:
        raise UsageError(
            f"{name} takes ({', '.join(signature.parameters)}), and is called with"
            f" ({', '.join(arguments)}) in this order"
        )
