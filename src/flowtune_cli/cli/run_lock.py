"""Locks a run for the processes that train it together."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from ..flow.errors import FlowtuneError
from ..runs.directory import RunDirectory

if TYPE_CHECKING:
    from ..learning.peers import Peers


@contextmanager
def locked(run: RunDirectory, peers: Peers) -> Iterator[None]:
    """Lock a run for the processes that train it, which must all see its directory."""

    def check_seen() -> None:
        if not run.checkpoints.is_dir():
            raise FlowtuneError(
                f"{run.path} is not there on {socket.gethostname()}: all processes of a run need"
                " its directory. Set run.directory to a place that all machines share."
            )

    with run.lock() if peers.rank == 0 else nullcontext():
        peers.each(check_seen)
        yield
