"""A scripted engine that writes a word a step, as slowly as a test wants it to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from flowtune_cli.flow.request import Answer, Decoded, OnTokens, Request
from flowtune_cli.flow.surrogates import escaped
from flowtune_cli.testing import ScriptedEngine


class SteppingEngine(ScriptedEngine):
    """Also a tokenizer, whose tokens are the words of the texts that it wrote.

    Attributes:
        rows: how many requests each step went on with.
        failing: raised by the next step, for the requests that it would go on with.
    """

    def __init__(self, write: Callable[[str, str, int], str]) -> None:
        super().__init__(write)
        self.rows: list[int] = []
        self.failing: Exception | None = None
        self._words: dict[int, str] = {}
        self._may_step = threading.Semaphore(0)
        self._held = False

    def session(self) -> SteppingSession:
        return SteppingSession(self)

    def hold(self) -> None:
        """From now on, make only those steps that are allowed."""
        self._held = True

    def allow(self, steps: int = 1) -> None:
        """Let so many steps be made."""
        self._may_step.release(steps)

    def go(self) -> None:
        """Hold no more."""
        self._held = False
        self._may_step.release()

    def wait(self) -> None:
        if self._held:
            assert self._may_step.acquire(timeout=20)

    def learn(self, text: str) -> None:
        for word in text.split(" "):
            self._words[crc32(escaped(word).encode())] = word

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self._words[each] for each in ids)

    whole_text = decode


@dataclass(eq=False)
class _Row:
    request: Request
    on_tokens: OnTokens | None
    future: Future[Answer]
    answer: Any = None
    told: int = 0


class SteppingSession:
    def __init__(self, engine: SteppingEngine) -> None:
        self.engine = engine
        self._added: deque[_Row] = deque()
        self._running: list[_Row] = []

    @property
    def busy(self) -> bool:
        return bool(self._added or self._running)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        row = _Row(request, on_tokens, Future())
        self._added.append(row)
        return row.future

    def step(self) -> None:
        self.engine.wait()
        while self._added:
            row = self._added.popleft()
            row.answer = self.engine.answer([row.request])[0]
            if isinstance(row.answer, Decoded):
                self.engine.learn(row.answer.generations[0].text)
            self._running.append(row)
        self._running = [row for row in self._running if not row.future.cancelled()]
        self.engine.rows.append(len(self._running))
        failing, self.engine.failing = self.engine.failing, None
        if failing is not None:
            failed, self._running = self._running, []
            for row in failed:
                if row.future.set_running_or_notify_cancel():
                    row.future.set_exception(failing)
            raise failing
        for row in list(self._running):
            self._go_on(row)

    def _go_on(self, row: _Row) -> None:
        tokens: tuple[int, ...] = ()
        if isinstance(row.answer, Decoded):
            tokens = row.answer.generations[0].tokens
        if row.told < len(tokens) and row.on_tokens is not None:
            row.on_tokens(0, tokens[row.told : row.told + 1])
        row.told += 1
        if row.told >= len(tokens):
            self._running.remove(row)
            if row.future.set_running_or_notify_cancel():
                row.future.set_result(row.answer)
