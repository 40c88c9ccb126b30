"""The processes that train one run: this file alone knows of torch.distributed.

They meet on a store of the launcher's or of rank 0, where each says how its work has ended; so a
process that waits can be interrupted, and can tell who is late, has failed, or is gone. Only when
all are there do data go round, by gloo.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..flow.episode import Failure
from ..flow.errors import FlowtuneError
from ..learning.peers import PeerFailed, Stop
from .patient_store import NoAnswer, PatientStore
from .place import Place
from .signs_of_life import (
    BEAT_SECONDS,
    SILENCE_SECONDS,
    SILENCE_WHEN_STOPPING_SECONDS,
    SignsOfLife,
    beat,
)

Value = TypeVar("Value")

_LOOK_SECONDS = 0.02
_CHECK_SECONDS = 0.5
_GOODBYE_SECONDS = 15.0


class _Abandoned(Stop):
    """This process's work is for nothing, as another has failed or was asked to stop."""


@dataclass(frozen=True)
class _Status:
    """How the work of a process has ended: ``done``, ``stopped``, ``abandoned`` or ``failed``.

    Args:
        is_of_another: the message is about another process, and names it.
    """

    ended: str
    message: str = ""
    exit_code: int = 1
    is_of_another: bool = False


class Ranks:
    """Several processes, see ``learning.peers.Peers``.

    Args:
        place: of this process among them.
        patience: see there; also seconds until all have come for the first time.
        launcher: the process without which this one is to stop, if any.

    Raises:
        FlowtuneError: not all have come.
    """

    def __init__(self, place: Place, patience: float = 600.0, launcher: int | None = None) -> None:
        self.rank, self.size = place.rank, place.size
        self.patience = patience
        self._meetings = 0
        self._checked = 0.0
        self._stuck = False
        self._unheard = False
        self._alone_has_failed = False
        self._has_left = False
        os.environ.update(place.variables)
        timeout = timedelta(seconds=patience)
        try:
            store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
            all_launches = PatientStore(store, lambda: SILENCE_SECONDS)
            self._token = self._meet_first(all_launches, time.monotonic() + patience)
            self._store = all_launches.under(self._token)
            names = [self._key("name", rank) for rank in range(self.size)]
            self._names = [self._store.get(name).decode() for name in names]
            dist.init_process_group(
                "gloo",
                store=dist.PrefixStore("gloo", dist.PrefixStore(self._token, store)),
                rank=self.rank,
                world_size=self.size,
                timeout=timeout,
            )
        except (RuntimeError, ValueError, OSError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise FlowtuneError(
                f"process {self.rank} of {self.size} could not meet the others at {where}"
                f" (MASTER_ADDR, MASTER_PORT): {_first_line(error)}"
            ) from error
        own = dist.PrefixStore(self._token, store.clone())
        self._life = SignsOfLife(own, self.rank, self.name, launcher)
        self._store.patience = self._life.silence_limit

    @property
    def stopping(self) -> Callable[[], bool]:
        """See ``Peers``."""
        return self._life.stopping

    @stopping.setter
    def stopping(self, asked: Callable[[], bool]) -> None:
        self._life.stopping = asked

    def name(self, rank: int) -> str:
        """See ``Peers``."""
        return f"rank {rank} ({self._names[rank]})"

    # What processes do together

    def each(self, work: Callable[[], Value]) -> list[Value]:
        """See ``Peers``."""
        error: BaseException | None = None
        data = b""
        try:
            data = _pickled(work())
            status = _Status("done")
        except _Abandoned:
            status = _Status("abandoned")
        except Stop as stop:
            error, status = stop, _Status("stopped")
        except Exception as failure:
            error, status = failure, _failed(failure)
        self._meet(status, error)
        return [pickle.loads(each) for each in self._gather(data)]

    def first(self, work: Callable[[], Value]) -> Value:
        """See ``Peers``."""
        mine: Callable[[], Any] = work if self.rank == 0 else lambda: None
        found: Value = self.each(mine)[0]
        return found

    def total(self, tensor: Tensor) -> Tensor:
        """See ``Peers``."""
        total = tensor.to("cpu", copy=True).contiguous()
        self._wait(partial(dist.all_reduce, total, async_op=True))
        return total.to(tensor.device)

    def check(self) -> None:
        """See ``Peers``; looks at most twice a second."""
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        with self._reaching_the_store():
            if self._store.check([f"{self._meetings}/alarm"]):
                raise _Abandoned

    def leave(self, error: BaseException | None = None) -> None:
        """Part from the others; after an error they are told of it.

        Whoever keeps the store waits for the others, and they for it to have heard of the error.
        """
        if self._has_left:
            return
        self._has_left = True
        try:
            known = error is None or isinstance(error, (PeerFailed, Stop))
            if error is not None and not isinstance(error, Stop):
                # Also for one that comes late, and that nobody waits for any more.
                self._say(_failed(error))
            self._store.set(self._key("left"), b"")
            others = self._others - self._life.lost
            waited_for = others if self.rank == 0 else others & {0}
            keys = [self._key("left", rank) for rank in sorted(waited_for)]
            end = time.monotonic() + _GOODBYE_SECONDS
            while keys and not self._store.check(keys):
                self._life.listen(self._store, waited_for)
                if time.monotonic() > end:
                    self._unheard = not known
                    break
                time.sleep(_LOOK_SECONDS)
            self._alone_has_failed = not known and not any(map(self._has_failed, self._others))
        except (RuntimeError, PeerFailed):
            pass  # the store, or someone, is gone already
        self._life.end()
        self._store.end()
        if not self.must_exit_at_once:
            dist.destroy_process_group()

    @property
    def must_exit_at_once(self) -> bool:
        """Whether a thread waits for a process that is lost, and would hold up the end."""
        return self._stuck or self._store.is_silent

    @property
    def speaks(self) -> bool:
        """Whether this process is to tell the user of an error: the first that lives does.

        So does one whose error rank 0 was too busy to hear, as its launcher may end that first.
        """
        return self._unheard or self.rank == min(set(range(self.size)) - self._life.lost)

    @property
    def is_to_blame(self) -> bool:
        """Whether this process alone has failed; known once it has left."""
        return self._alone_has_failed

    @property
    def _others(self) -> set[int]:
        return set(range(self.size)) - {self.rank}

    # Meeting

    def _meet_first(self, store: PatientStore, end: float) -> str:
        """Wait for all to come; gives the prefix of their keys.

        A launcher that starts processes again may keep its store, with what those before have left
        there. So each says a word of its own, and rank 0 answers it with the prefix.
        """
        others = range(1, self.size)
        word = secrets.token_hex(8)
        token = word if self.rank == 0 else ""
        heard: dict[int, bytes] = {}
        store.set(self._key("hello"), word)
        while True:
            if self.rank == 0:
                for rank in others:
                    hello = self._key("hello", rank)
                    if store.check([hello]) and store.get(hello) != heard.get(rank):
                        heard[rank] = store.get(hello)
                        answer = f"{heard[rank].decode()} {token}"
                        store.set(self._key("welcome", rank), answer)
            elif store.check([self._key("welcome")]):
                to, answered = store.get(self._key("welcome")).decode().split()
                token = answered if to == word else ""
            if token:
                own = store.under(token)
                if not own.check([self._key("name")]):
                    beat(own, self.rank)
                    own.set(self._key("name"), _own_name())
                names = [self._key("name", rank) for rank in range(self.size)]
                if own.check(names):
                    return token
            if time.monotonic() > end:
                raise RuntimeError("not all have come in time")
            time.sleep(_LOOK_SECONDS)

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}/{self.rank if rank is None else rank}"

    def _say(self, status: _Status) -> None:
        """Tell how this process comes to the next meeting."""
        self._store.set(self._key(str(self._meetings)), pickle.dumps(status))
        if status.ended != "done":
            self._store.set(f"{self._meetings}/alarm", b"")

    def _meet(self, status: _Status, error: BaseException | None) -> None:
        """Wait until all have ended their work.

        Raises:
            Stop: some process was asked to stop.
            PeerFailed: one has failed, or is lost.
        """
        with self._reaching_the_store():
            self._say(status)
            if status.ended == "failed":
                assert error is not None
                raise error
            statuses = self._statuses()
        if self._meetings:
            self._store.delete_key(f"{self._meetings - 1}/{self.rank}")
        self._meetings += 1
        if any(other.ended != "done" for other in statuses.values()):
            raise error if isinstance(error, Stop) else Stop()

    def _statuses(self) -> dict[int, _Status]:
        """Those of all; raises as soon as one has failed."""
        found: dict[int, _Status] = {}
        begin = listened = time.monotonic()
        pause = 5e-4
        while True:
            for rank in range(self.size):
                if rank not in found and (status := self._status(rank)) is not None:
                    found[rank] = status
                    if status.ended == "failed":
                        raise self._failure(rank, status)
            missing = [rank for rank in range(self.size) if rank not in found]
            if not missing:
                return found
            # The store's own waiting would log each time that it was in vain.
            time.sleep(pause)
            pause = min(pause * 1.2, _LOOK_SECONDS)
            now = time.monotonic()
            if now - listened > BEAT_SECONDS:
                listened = now
                self._life.listen(self._store, missing)
            if now - begin > self.patience:
                late = ", ".join(self.name(rank) for rank in missing)
                raise PeerFailed(
                    f"{late} did not come within training.rank_timeout = {self.patience:g} seconds"
                    " of the others: it hangs, or has much more to do than they."
                )

    def _status(self, rank: int) -> _Status | None:
        """How a process comes to the next meeting, if it is known."""
        key = self._key(str(self._meetings), rank)
        if not self._store.check([key]):
            return None
        status: _Status = pickle.loads(self._store.get(key))
        return status

    def _has_failed(self, rank: int) -> bool:
        """Whether a process has said that it failed, and not because of another."""
        status = self._status(rank)
        return status is not None and status.ended == "failed" and not status.is_of_another

    def _hear_of_failures(self) -> None:
        """Raise if one has failed since the last meeting, so that it does not come."""
        for rank in self._others:
            status = self._status(rank)
            if status is not None and status.ended == "failed":
                raise self._failure(rank, status)

    def _failure(self, rank: int, status: _Status) -> PeerFailed:
        who = "" if status.is_of_another else f"{self.name(rank)}: "
        return PeerFailed(f"{who}{status.message}", status.exit_code)

    @contextmanager
    def _reaching_the_store(self) -> Iterator[None]:
        try:
            yield
        except (dist.DistNetworkError, dist.DistStoreError, NoAnswer) as error:
            if self.rank == 0:
                raise PeerFailed(f"the launcher's store is gone: {_first_line(error)}") from error
            raise self._life.is_lost(0, "its store no longer answers") from error

    # Data

    def _gather(self, data: bytes) -> list[bytes]:
        """The bytes of all."""
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        own_size = torch.tensor([len(data)])
        self._wait(partial(dist.all_gather, sizes, own_size, async_op=True))
        lengths = [int(size) for size in sizes]
        if not max(lengths):
            return [b""] * self.size
        # As gloo gathers like sizes alone, each in turn sends what it has.
        found = []
        for rank, length in enumerate(lengths):
            if rank == self.rank:
                tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            else:
                tensor = torch.empty(length, dtype=torch.uint8)
            if length:
                self._wait(partial(dist.broadcast, tensor, rank, async_op=True))
            found.append(tensor.numpy().tobytes())
        return found

    def _wait(self, begin: Callable[[], Any]) -> None:
        """Let data go round, to which all have come.

        Raises:
            PeerFailed: a process is lost meanwhile.
        """
        try:
            work = begin()
            pause = 1e-5
            begun = listened = time.monotonic()
            while not work.is_completed():
                time.sleep(pause)
                pause = min(pause * 1.2, 0.01)
                now = time.monotonic()
                if now - listened < BEAT_SECONDS:
                    continue
                listened = now
                self._stuck = True
                with self._reaching_the_store():
                    self._hear_of_failures()
                    self._life.listen(self._store, self._others)
                if now - begun > self.patience:
                    raise PeerFailed(
                        "data did not go round within training.rank_timeout ="
                        f" {self.patience:g} seconds: a process hangs, or the network is too slow"
                    )
                self._stuck = False
            work.wait()
        except RuntimeError as error:
            if isinstance(error, FlowtuneError):
                raise
            raise self._who_is_lost(error) from error

    def _who_is_lost(self, error: RuntimeError) -> PeerFailed:
        """A connection broke: who is silent, if anyone is."""
        end = time.monotonic() + SILENCE_WHEN_STOPPING_SECONDS + 3 * BEAT_SECONDS
        try:
            with self._reaching_the_store():
                while time.monotonic() < end:
                    self._hear_of_failures()
                    self._life.listen(self._store, self._others, urgent=True)
                    time.sleep(BEAT_SECONDS / 4)
        except PeerFailed as lost:
            return lost
        return PeerFailed(f"the processes lost touch: {_first_line(error)}")


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise FlowtuneError(
            f"what this process made cannot be sent to the others ({_first_line(error)}). What"
            " flows return, and the values of nodes, must be such as pickle takes."
        ) from error


def _failed(error: BaseException) -> _Status:
    if isinstance(error, FlowtuneError):
        of_another = isinstance(error, PeerFailed)
        return _Status("failed", str(error), error.exit_code, of_another)
    if isinstance(error, KeyboardInterrupt):
        return _Status("failed", "interrupted at once", 130)
    message = Failure.of(error).traceback if isinstance(error, Exception) else repr(error)
    return _Status("failed", f"failed unexpectedly:\n{message}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
