"""The door of one episode: makes its node calls and effects, from whatever thread they come."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from ..flow.chat import ChatAnswer
from ..flow.effect import Key
from ..flow.episode import Episode, RequestError
from ..flow.errors import FlowtuneError, UsageError
from ..runtime.flow_run import Ended
from ..runtime.replay import Replay
from .effects import OutsideEffects
from .ids import created

T = TypeVar("T")

_FROM_OUTSIDE: ContextVar[bool] = ContextVar("from_outside", default=False)
"""Whether a request comes from another thread, maybe one that serves connections."""


@dataclass(frozen=True)
class Answered:
    """A chat node's answer.

    Args:
        key: of the call, from which ids are made.
        created: the time that is shown, in seconds.
    """

    key: Key
    answer: ChatAnswer
    created: int


class Door:
    """What requests of a flow reach.

    A node call that fails ends the flow with the call's own error, as a program sees no more of it
    than an HTTP error, which it may catch.

    Raises:
        UsageError: no flow of this episode runs.
    """

    def __init__(self, episode: Episode) -> None:
        runner = episode.runner
        if not isinstance(runner, Replay) or runner.run.loop is None:
            raise UsageError("a client was made for an episode whose flow does not run")
        self.episode = episode
        self.loop = runner.run.loop
        self.outside_effects = OutsideEffects(episode)
        self._run = runner.run

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes that can be asked."""
        return [name for name, node in self.episode.nodes.items() if node.kind == "chat"]

    def has(self, name: str) -> bool:
        """Whether a node can be asked; while nodes are found out, any name is one."""
        nodes = self.episode.nodes
        return name in nodes and nodes[name].kind == "chat"

    @property
    def over(self) -> bool:
        """Whether the flow has ended, or nothing of it is needed any more."""
        return self._run.ended or self.loop.is_closed()

    @property
    def failure(self) -> Exception | None:
        """Why the flow was ended, where that is a failure."""
        return self._run.failure

    def refusal(self, node: str, inputs: Mapping[str, Any]) -> str | None:
        """Why a node takes inputs for no request, if it does; no call is made."""
        try:
            self.episode.nodes[node].prompt_text(inputs)
        except ValueError as error:
            return str(error)
        except Exception:
            return None  # the call itself meets it, and the flow ends with it
        return None

    def note_error(self, error: RequestError) -> None:
        """Keep that a request was answered with an error; from any thread.

        What is asked when nothing of the flow is needed any more says nothing of the program.
        """
        if not self.over:
            self.episode.request_errors.append(error)

    async def call(self, node: str, inputs: Mapping[str, Any], place: str) -> Answered:
        """Await a node, on the flow's own loop.

        Args:
            place: the file and line that a message names.

        Raises:
            Ended: nothing of the flow is needed any more, or the call failed.
        """
        call = self.episode.call(node, **inputs)
        call.place, call.from_outside = place, _FROM_OUTSIDE.get()
        try:
            answer = await call
        except Exception as error:
            self.fail(error)
        if not isinstance(answer, ChatAnswer):
            self.fail(TypeError(f"node '{node}' answered with {answer!r} in place of a ChatAnswer"))
        assert call.key is not None
        return Answered(call.key, answer, created(call.key))

    async def effect(self, function: Callable[..., Awaitable[T]], *args: Any, place: str) -> T:
        """Await an effect of the episode, on the flow's own loop.

        Raises:
            Exception: the effect's own.
            Ended: as for a call.
        """
        call = self.episode.effect(function, *args)
        call.place = place
        try:
            result: T = await call
            return result
        except FlowtuneError as error:
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """End the flow with a failure; raises ``Ended``. Called on the flow's own loop."""
        self._run.end(error)
        raise Ended from error

    def submit(
        self, coroutine: Callable[[], Coroutine[Any, Any, T]]
    ) -> concurrent.futures.Future[T]:
        """Run a coroutine as a task of the flow; from any other thread.

        The future is cancelled where the flow is ended; cancelling it cancels the task.
        """
        made = coroutine()
        try:
            # In the flow's context, so that the task is the flow's own, and ends with it.
            context = self._run.context.copy()
            context.run(_FROM_OUTSIDE.set, True)
            return context.run(asyncio.run_coroutine_threadsafe, made, self.loop)
        except RuntimeError:  # the loop is closed
            made.close()
            future: concurrent.futures.Future[T] = concurrent.futures.Future()
            future.cancel()
            return future

    def wait(self, future: concurrent.futures.Future[T]) -> T:
        """A submitted coroutine's result, in a thread that has nothing else to do.

        Raises:
            Ended: the flow has ended.
        """
        while not future.done():
            # A loop that was left behind runs nothing any more, so it is not waited for alone.
            concurrent.futures.wait([future], timeout=0.5)
            if self.over and not future.done():
                future.cancel()
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Ended from None
