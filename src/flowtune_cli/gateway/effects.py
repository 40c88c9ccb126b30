"""Effects of programs outside: the program runs its tool, and the episode remembers the end.

``POST /effects`` with a name and arguments gives the recorded ``result`` or ``error``, if there is
one; otherwise the ``run``, under which the program says by ``POST /effects/RUN`` what the tool
returned or raised. Rollouts, and runs that are resumed, then get the same.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

from ..flow.episode import Episode
from .errors import WireError, invalid
from .fields import Fields


class ToolFailed(Exception):
    """What a tool of a program outside raised."""


@dataclass(frozen=True)
class Effect:
    """What a program asks to be remembered.

    Args:
        args: JSON values; with the name, they are the effect's key.
        stateful: see ``Episode.effect``.
    """

    name: str
    args: list[Any]
    stateful: bool = False

    @classmethod
    def of(cls, body: Any) -> Effect:
        """From a request's body."""
        fields = Fields(body)
        effect = cls(fields.required_text("name"), fields.list("args"), fields.flag("stateful"))
        fields.end()
        return effect


@dataclass(frozen=True)
class End:
    """What came of a tool: a result, or an error's text."""

    result: Any = None
    error: str | None = None

    @classmethod
    def of(cls, body: Any) -> End:
        """From a request's body, which has one of the two."""
        fields = Fields(body)
        error = fields.text("error")
        if error is None and "result" not in body:
            raise invalid("result", "is missing: say what the tool returned, or its error")
        end = cls(fields.raw("result"), error)
        fields.end()
        return end


class OutsideEffects:
    """The effects of one episode that its program runs. All of it is on the flow's own loop."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._runs: dict[str, _Run] = {}

    async def begin(self, effect: Effect, *, place: str) -> dict[str, Any]:
        """The recorded end of an effect, or the run that the program has to make."""
        run = _Run()
        # A tool that is tried again has to be run again by the program, which decides that.
        call = self._episode.effect(
            run.outside, effect.name, effect.args, stateful=effect.stateful, retries=0
        )
        call.place = place
        task = asyncio.ensure_future(call)
        await asyncio.wait([task, run.wanted], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return _shown(task)
        name = secrets.token_hex(8)
        self._runs[name] = run
        run.task = task
        task.add_done_callback(lambda _: self._runs.pop(name, None))
        return {"run": name}

    async def end(self, name: str, end: End, *, place: str) -> dict[str, Any]:
        """Tell what came of a run; returns it as every run of the flow gets it."""
        run = self._runs.get(name)
        if run is None or run.task is None or run.ended.done():
            raise WireError(f"there is no run '{name}' that waits for an end", status=404)
        if end.error is None:
            run.ended.set_result(end.result)
        else:
            run.ended.set_exception(ToolFailed(end.error))
        await asyncio.wait([run.task])
        return _shown(run.task)


class _Run:
    """A tool that a program may have to run."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.wanted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Any] = loop.create_future()
        self.task: asyncio.Future[Any] | None = None

    async def outside(self, name: str, args: list[Any]) -> Any:
        """Have the program run it. Named like this in the store and in ``inspect``."""
        self.wanted.set_result(None)
        return await self.ended


def _shown(task: asyncio.Future[Any]) -> dict[str, Any]:
    error = task.exception()
    return {"result": task.result()} if error is None else {"error": str(error)}
