"""A task's program that is an executable: an example as JSON on stdin, its result on stdout."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..flow.episode import Episode
from ..flow.errors import UsageError
from . import connection
from .clock import TimeLimit
from .outcome import ProgramRubbish, ProgramTimedOut, excerpt, with_stderr
from .process import Command, Process, command_words
from .worker import Worker

Started = TypeVar("Started", Process, Worker)
Idle = tuple[Worker, connection.Address]


class Executable:
    """Starts a command for each episode and rollout, at most so many at once.

    Args:
        command: the words of a shell, without its other signs.
        directory: where it is started.
        processes: how many run at once.
        timeout: seconds of one example, without what it waits for its nodes; 0 is no limit.
        persistent: it stays, and reads a line an example.
        models: of other servers, which it may ask, too.

    Raises:
        UsageError: there is no such command.
    """

    def __init__(
        self,
        command: str,
        directory: Path,
        *,
        processes: int,
        timeout: float,
        persistent: bool,
        models: connection.Models = connection.NO_MODELS,
    ) -> None:
        self.models = models
        if os.name != "posix":
            raise UsageError("programs are started on Linux, macOS and other POSIX systems only")
        self.directory = directory
        self.words = _words(command, directory)
        self.processes = processes
        self.timeout = timeout
        self.persistent = persistent
        self._places: weakref.WeakKeyDictionary[Any, asyncio.Semaphore]
        self._places = weakref.WeakKeyDictionary()
        # An address is one of its event loop's door.
        self._idle: weakref.WeakKeyDictionary[Any, list[Idle]] = weakref.WeakKeyDictionary()

    async def play(self, episode: Episode, example: Mapping[str, Any]) -> Any:
        """What the program prints, read as JSON.

        Raises:
            ProgramFailed: it gave no result; its class says how.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._places:
            self._places[loop] = asyncio.Semaphore(self.processes)
            self._idle[loop] = []
        asked = json.dumps(example, ensure_ascii=True).encode()
        async with self._places[loop]:
            one = self._ask_worker if self.persistent else self._run_once
            return _parsed(await one(episode, asked))

    async def _run_once(self, episode: Episode, asked: bytes) -> bytes:
        address = connection.door(self.models).address()
        process: Process | None = None
        try:
            address.serve(episode)
            process = await _started(Process, self._command(address))
            return await self._limited(episode, process, process.communicate, asked)
        finally:
            address.close()
            if process is not None:
                await _ended(process)

    async def _ask_worker(self, episode: Episode, asked: bytes) -> bytes:
        worker, address = await self._worker(episode)
        keep = False
        try:
            answer = await self._limited(episode, worker.process, worker.ask, asked)
            keep = True
            return answer
        finally:
            address.serve(None)
            if keep:
                self._idle[asyncio.get_running_loop()].append((worker, address))
            else:
                address.close()
                worker.process.kill()
                await _ended(worker.process)

    async def _worker(self, episode: Episode) -> tuple[Worker, connection.Address]:
        """A worker that waits for a line, and its address, which serves the episode."""
        idle = self._idle[asyncio.get_running_loop()]
        if idle:
            worker, address = idle.pop()
            address.serve(episode)
            return worker, address
        address = connection.door(self.models).address()
        address.serve(episode)
        try:
            return await _started(Worker, self._command(address)), address
        except BaseException:
            address.close()
            raise

    async def _limited(self, episode: Episode, process: Process, ask: Any, asked: bytes) -> bytes:
        with TimeLimit(episode, self.timeout, process.kill) as limit:
            try:
                answer: bytes = await asyncio.to_thread(ask, asked)
            except Exception:
                if not limit.expired:
                    raise
        if limit.expired:
            raise ProgramTimedOut(
                with_stderr(
                    f"the program took longer than {self.timeout:g} seconds, without what it waited"
                    " for its nodes, and was ended",
                    process.stderr_tail,
                )
            )
        return answer

    def _command(self, address: connection.Address) -> Command:
        environ = {
            **os.environ,
            "OPENAI_BASE_URL": address.base_url,
            "OPENAI_API_KEY": address.api_key,
        }
        return Command(self.words, self.directory, environ)

    def close(self) -> None:
        """End the workers."""
        for idle in self._idle.values():
            while idle:
                worker, address = idle.pop()
                address.close()
                worker.end()


async def _started(make: Callable[[Command], Started], command: Command) -> Started:
    """Start a program; where nobody waits for it any more, it is ended as soon as it has begun."""
    starting = asyncio.get_running_loop().run_in_executor(None, make, command)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_end_unwanted)
        raise


def _end_unwanted(starting: asyncio.Future[Any]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().end()


async def _ended(process: Process) -> None:
    """End a process whatever happens here: killing is quick, and its pipes are closed in time."""
    process.kill()
    await asyncio.shield(asyncio.to_thread(process.end))


def _words(command: str, directory: Path) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the program '{command}' cannot be read as words: {error}") from None
    if not words:
        raise UsageError("the program is empty: name an executable, such as 'python flow.py'")
    found = command_words(words, directory)
    if isinstance(found, str):
        raise UsageError(f"the program '{command}' cannot be started: {found}")
    return found


def _parsed(printed: bytes) -> Any:
    rule = "A program prints its result as one JSON value on stdout; all else belongs on stderr"
    try:
        text = printed.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProgramRubbish(f"what the program printed is not UTF-8: {error}. {rule}") from None
    if not text.strip():
        raise ProgramRubbish(f"the program printed nothing. {rule}")
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ProgramRubbish(
            f"what the program printed is not JSON: {error}. {rule}. It printed {excerpt(text)}"
        ) from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
