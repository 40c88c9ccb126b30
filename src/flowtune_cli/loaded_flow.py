"""A trained flow as a function: loaded once, and called from a script, a notebook or a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flow.errors import FlowFailed, FlowtuneError, UsageError
from .flow.example import Example

if TYPE_CHECKING:
    from .training.session import Session

MOST_AT_ONCE = 256
"""How many calls are played side by side; the others wait."""

_MOST_REMEMBERED = 4096
"""How many answers of nodes are remembered, for calls that ask the same."""

_FOREVER = 1e9
"""Seconds. While a clock runs, calls that come late join the engine's decoding."""


def load(
    run: str | Path | None = None,
    *,
    task: str | None = None,
    checkpoint: str | int = "last",
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> LoadedFlow:
    """Load a flow as a run has trained it.

    ::

        with flowtune_cli.load("runs/first") as flow:
            result = flow.run(message="Where is my parcel?")

    and ``await flow(message=...)`` where an event loop runs.

    Args:
        run: its name or path; None is the untrained flow of ``task``.
        task: by default the run's.
        checkpoint: the number of episodes after which it was made, "last" or "best".
        config: a settings file other than ``flowtune.toml``.
        overrides: settings, as ``--set`` takes them: ``"model.device=cpu"``.

    Raises:
        UsageError: there is no such run or checkpoint, or settings do not fit it.
    """
    from .cli.checkpoint_names import split_name
    from .cli.player import load_player
    from .registry import load_registry

    registry = load_registry()
    file = None if config is None else Path(config)
    name = None
    if run is not None:
        found, wanted = split_name(registry, str(run), file, list(overrides))
        task = task or found.info.task
        if checkpoint != "last":
            wanted = str(checkpoint)
        name = f"{found.path}@{wanted}"
    if task is None:
        raise UsageError("load a run, or say which task: load(task='toyqa')")
    player = load_player(registry, task, name, file, list(overrides))
    return LoadedFlow(player.set_up())


@dataclass(eq=False)
class _Call:
    example: Example
    result: Future[Any] = field(default_factory=Future)


class LoadedFlow:
    """A flow that can be called; make one with ``load``.

    Calls at once are batched, and one that comes late joins those that are being answered. A thread
    of its own does the work, so it may be called from any thread and any event loop. ``close`` it,
    or use it in a ``with`` block.
    """

    def __init__(self, session: Session) -> None:
        self.task = session.task
        self._session = session
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue[_Call | None] | None = None
        self._open: set[_Call] = set()

    async def __call__(self, /, **inputs: Any) -> Any:
        """The flow's result for these inputs.

        Raises:
            FlowFailed: the flow raised an exception, or had no end within its limits.
            UsageError: the flow is closed, or the inputs are not what the task wants.
        """
        return await asyncio.wrap_future(self.submit(**inputs))

    def run(self, /, **inputs: Any) -> Any:
        """As a call, for callers without an event loop: waits for the result."""
        return self.submit(**inputs).result()

    def submit(self, /, **inputs: Any) -> Future[Any]:
        """As a call; the result may be waited for, or cancelled, by any thread."""
        call = _Call(self.task.example_from(inputs))
        with self._lock:
            if self._closed:
                raise UsageError("the flow is closed: load it again")
            self._open.add(call)
            loop, queue = self._running()
            loop.call_soon_threadsafe(queue.put_nowait, call)
        return call.result

    def close(self) -> None:
        """End the thread and let the model go; calls that have no result are cancelled."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None and self._loop is not None and self._queue is not None:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, None)
        if thread is not None:
            thread.join()
        del self._session

    def __enter__(self) -> LoadedFlow:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> LoadedFlow:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.close)

    # The thread

    def _running(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Queue[_Call | None]]:
        if self._thread is None:
            started = threading.Event()
            self._thread = threading.Thread(
                target=self._work, args=(self._session, started), name="flow", daemon=True
            )
            self._thread.start()
            started.wait()
        assert self._loop is not None
        assert self._queue is not None
        return self._loop, self._queue

    def _work(self, session: Session, started: threading.Event) -> None:
        engine = session.engine

        def between() -> None:
            if engine.answers_held > _MOST_REMEMBERED:
                engine.forget()

        failure: BaseException | None = None
        try:
            for _ in session.scheduler(between).stream([self._play_all(session, started)]):
                pass
        except BaseException as error:  # of the engine: it concerns all that it was answering
            failure = error
        started.set()
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None  # the next call starts another one
            left, self._open = self._open, set()
        for call in left:
            if failure is None:
                call.result.cancel()
            else:
                _end(call, partial(call.result.set_exception, failure))

    async def _play_all(self, session: Session, started: threading.Event) -> None:
        loop = self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[_Call | None] = asyncio.Queue()
        self._queue = queue
        started.set()
        clock = loop.call_later(_FOREVER, _nothing)
        at_once = asyncio.Semaphore(MOST_AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (call := await queue.get()) is not None:
                task = loop.create_task(self._play(session, call, at_once))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                call.result.add_done_callback(partial(_cancel_too, loop, task))
        finally:
            clock.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _play(self, session: Session, call: _Call, at_once: asyncio.Semaphore) -> None:
        from .runtime.play import play

        try:
            async with at_once:
                seed = session.settings.training.seed
                episode = await play(session.task, call.example, seed=seed)
        except FlowtuneError as error:
            _end(call, partial(call.result.set_exception, error))
        else:
            if episode.failure is None:
                _end(call, partial(call.result.set_result, episode.result))
            else:
                failed = FlowFailed(episode.failure.error, episode.failure.traceback)
                _end(call, partial(call.result.set_exception, failed))
        # Else the thread is ending, which says how.
        with self._lock:
            self._open.discard(call)


def _end(call: _Call, end: Callable[[], None]) -> None:
    """Give a call its end, unless the caller has cancelled it."""
    if call.result.set_running_or_notify_cancel():
        end()


def _cancel_too(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], result: Future[Any]
) -> None:
    if result.cancelled():
        loop.call_soon_threadsafe(task.cancel)


def _nothing() -> None:
    """The clock's end, which nobody will see."""
