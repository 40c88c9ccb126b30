"""Processes that play the ranks of a run, kept for many cases: torch is imported once for all.

A case is a function of ``support.rank_cases`` that takes its ``Peers`` first.
"""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from support.processes import _PATHS

_SERVE = "from support.rank_workers import serve; serve()"


@dataclass(frozen=True)
class Raised:
    """An exception of a worker."""

    kind: str
    message: str
    traceback: str


class Workers:
    """As many processes as any case needs; use it in a ``with``."""

    def __init__(self, size: int, patience: float = 60.0) -> None:
        self.patience = patience
        self._directory = tempfile.TemporaryDirectory()
        self._listener = Listener(str(Path(self._directory.name) / "socket"), "AF_UNIX")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [*_PATHS, os.environ.get("PYTHONPATH", "")])),
            "FLOWTUNE_PLUGINS": "",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self._listener.address), str(size)],
            env=environment,
        )
        self.workers = [self._listener.accept() for _ in range(size)]
        self.processes = [worker.recv() for worker in self.workers]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for worker in self.workers:
            worker.close()  # at whose end they leave
        self._listener.close()
        self._directory.cleanup()

    def spare(self, size: int) -> Workers:
        """So many of the last, for a case that leaves them broken: nobody else has them then."""
        spare = copy.copy(self)
        spare.workers = [self.workers.pop() for _ in range(size)]
        spare.processes = [self.processes.pop() for _ in range(size)]
        return spare

    def begin(self, size: int, case: str, *arguments: Any, **more: Any) -> None:
        """Let so many ranks begin a case."""
        port = free_port()
        for rank in range(size):
            self.workers[rank].send((rank, size, port, self.patience, case, arguments, more))

    def end(self, size: int, timeout: float = 60.0) -> list[Any]:
        """What each rank returned or raised."""
        found = []
        for rank in range(size):
            assert self.workers[rank].poll(timeout), f"rank {rank} did not end"
            found.append(pickle.loads(self.workers[rank].recv_bytes()))
        return found

    def run(self, size: int, case: str, *arguments: Any, **more: Any) -> list[Any]:
        """What each of so many ranks returned."""
        self.begin(size, case, *arguments, **more)
        found = self.end(size)
        raised = [outcome for outcome in found if isinstance(outcome, Raised)]
        assert not raised, "\n".join(each.traceback for each in raised)
        return found


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def serve() -> None:
    """Import all that cases need, then become the workers."""
    import support.rank_cases

    address, size = sys.argv[1], int(sys.argv[2])
    for _ in range(size):
        if os.fork() == 0:
            with Client(address, "AF_UNIX") as parent:
                parent.send(os.getpid())
                _work(parent, support.rank_cases)
            os._exit(0)
    for _ in range(size):
        os.wait()


def _work(parent: Connection, cases: Any) -> None:
    from flowtune_cli.training.place import Place
    from flowtune_cli.training.ranks import Ranks

    while True:
        try:
            rank, size, port, patience, case, arguments, more = parent.recv()
        except (EOFError, OSError):
            return
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        outcome: Any
        ranks = None
        try:
            ranks = Ranks(Place(rank, size, rank), patience)
            outcome = getattr(cases, case)(ranks, *arguments, **more)
            ranks.leave()
        except Exception as error:
            outcome = Raised(type(error).__name__, str(error), traceback.format_exc())
            if ranks is not None:
                ranks.leave(error)
        # A connection's own pickling shares the memory of tensors.
        parent.send_bytes(pickle.dumps(outcome))
