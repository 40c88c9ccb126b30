"""The adapters that servers hold: each state of one under a name that no other state has.

Servers key their caches by an adapter's name. So a name has the run, the node, the version and a
digest of the weights, in PEFT's format in a directory of the same name, and never means anything
else. All servers have loaded it before a request names it; what it replaces is dropped then.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..engine.adapters import Adapters
from ..flow.errors import FlowtuneError
from .fleet import Fleet


@dataclass(frozen=True)
class State:
    """A node's adapter as servers hold it.

    Args:
        name: on the servers.
        weights: as ``Adapters.state`` gives them.
    """

    name: str
    version: int
    directory: Path
    weights: Mapping[str, Tensor]


class Published:
    """The nodes' adapters on the servers.

    Args:
        directory: where they are written; servers read them there, under the same path.
        label: with which names begin.

    Attributes:
        previous: what servers held of a node before its present state, by node.
    """

    def __init__(self, adapters: Adapters, fleet: Fleet, directory: Path, label: str) -> None:
        self._adapters = adapters
        self._fleet = fleet
        self._label = label
        self.directory = directory.absolute()
        self._present: dict[str, State] = {}
        self.previous: dict[str, State] = {}

    def begin(self) -> None:
        """Drop what a former process of this run has left."""
        self._fleet.wait(self._fleet.unload_below(str(self.directory)))
        shutil.rmtree(self.directory, ignore_errors=True)

    def end(self) -> None:
        """Drop all."""
        for state in self._present.values():
            self._fleet.wait(self._fleet.unload(state.name))
        self._present.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def name(self, node: str) -> str:
        """The name of a node's adapter as it is now; every server that is there has loaded it.

        No request may be under way that names what it was before.

        Raises:
            FlowtuneError: it cannot be written, or a server cannot read it.
        """
        present = self._present.get(node)
        if present is not None and present.version == self._adapters.version(node):
            return present.name
        state = self._write(node)
        self._fleet.wait(self._fleet.load(state.name, str(state.directory)))
        self._present[node] = state
        if present is not None:
            self.previous[node] = present
            self._fleet.wait(self._fleet.unload(present.name))
            shutil.rmtree(present.directory, ignore_errors=True)
        return state.name

    def _write(self, node: str) -> State:
        weights = self._adapters.state(node)
        version = self._adapters.version(node)
        name = f"{self._label}-{node}-v{version}-{_digest(weights)}"
        directory = self.directory / name
        building = self.directory / f".{name}"
        try:
            shutil.rmtree(building, ignore_errors=True)
            self._adapters.write(node, building)
            shutil.rmtree(directory, ignore_errors=True)
            building.rename(directory)
        except OSError as error:
            raise FlowtuneError(
                f"cannot write the adapter of node '{node}' to {directory}:"
                f" {error.strerror or error}"
            ) from error
        return State(name, version, directory, weights)


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
