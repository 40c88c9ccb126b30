"""A store whose calls end: torch's own wait for ever where the process that keeps it is frozen."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any

_SLICE_SECONDS = 0.5

_Asked = tuple[Future[Any], Callable[[], Any]]


class NoAnswer(RuntimeError):
    """A store has not answered in time."""


class PatientStore:
    """Asks one of torch's stores, in a thread that is left behind if no answer comes.

    Args:
        store: nobody else's while this is used.
        patience: tells how many seconds an answer may take.

    Attributes:
        patience: as given; may be changed.
    """

    def __init__(self, store: Any, patience: Callable[[], float]) -> None:
        self.patience = patience
        self._store = store
        self._prefix = ""
        self._silent = threading.Event()
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(self._asked,), name="store", daemon=True).start()

    def under(self, prefix: str) -> PatientStore:
        """The same store, with this before all keys."""
        other = copy.copy(self)
        other._prefix = self._key(f"{prefix}/")
        return other

    @property
    def is_silent(self) -> bool:
        """Whether an answer did not come: no other one is waited for any more."""
        return self._silent.is_set()

    def set(self, key: str, value: str | bytes) -> None:
        """See torch's ``Store``, as for the others.

        Raises:
            NoAnswer: none has come in time; or what the store raises.
        """
        self._ask(lambda: self._store.set(self._key(key), value))

    def get(self, key: str) -> bytes:
        """The value of a key that is there. Raises as ``set``."""
        found: bytes = self._ask(lambda: self._store.get(self._key(key)))
        return found

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of these keys are there. Raises as ``set``."""
        return bool(self._ask(lambda: self._store.check(list(map(self._key, keys)))))

    def delete_key(self, key: str) -> None:
        """Forget a key. Raises as ``set``."""
        self._ask(lambda: self._store.delete_key(self._key(key)))

    def end(self) -> None:
        """Ask no more."""
        self._asked.put(None)

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _ask(self, call: Callable[[], Any]) -> Any:
        waited = 0.0
        answer: Future[Any] = Future()
        if not self.is_silent:
            self._asked.put((answer, call))
        while not self.is_silent:
            try:
                return answer.result(_SLICE_SECONDS)
            except Late:
                # Not by the clock, as this process itself may have been stopped meanwhile.
                waited += _SLICE_SECONDS
            if waited >= self.patience():
                self._silent.set()
        raise NoAnswer(f"it has not answered for {self.patience():.0f} seconds")


def _answer(asked: queue.SimpleQueue[_Asked | None]) -> None:
    while (one := asked.get()) is not None:
        answer, call = one
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)
