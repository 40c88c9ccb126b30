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
        base: the name of an adapter of zeros, for the base model's outputs. Without any, vLLM on a
            processor computes them with whatever adapter is in its last slot, if other requests are
            in the same batch. None as long as there is none.
        previous: what servers held of a node before its present state, by node.
    """

    def __init__(self, adapters: Adapters, fleet: Fleet, directory: Path, label: str) -> None:
        self._adapters = adapters
        self._fleet = fleet
        self._label = label
        self.directory = directory.absolute()
        self._present: dict[str, State] = {}
        self.base: str | None = None
        self.previous: dict[str, State] = {}

    def begin(self) -> None:
        """Drop what a former process of this run has left."""
        self._fleet.wait(self._fleet.unload_below(str(self.directory)))
        shutil.rmtree(self.directory, ignore_errors=True)

    def end(self) -> None:
        """Drop all."""
        names = [state.name for state in self._present.values()]
        for name in names if self.base is None else [*names, self.base]:
            self._fleet.wait(self._fleet.unload(name))
        self._present.clear()
        self.base = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def name(self, node: str | None) -> str | None:
        """The name of a node's adapter as it is now; every server that is there has loaded it.

        No request may be under way that names what it was before.

        Args:
            node: None is the base model; there is no name for it if no node has an adapter.

        Raises:
            FlowtuneError: it cannot be written, or a server cannot read it.
        """
        if node is None:
            if self.base is None and self._adapters.nodes:
                self.base = self._load(self._adapters.nodes[0], f"{self._label}-base", zeros=True)
            return self.base
        present = self._present.get(node)
        if present is not None and present.version == self._adapters.version(node):
            return present.name
        weights = self._adapters.state(node)
        version = self._adapters.version(node)
        name = f"{self._label}-{node}-v{version}-{_digest(weights)}"
        self._load(node, name)
        self._present[node] = State(name, version, self.directory / name, weights)
        if present is not None:
            self.previous[node] = present
            self._fleet.wait(self._fleet.unload(present.name))
            shutil.rmtree(present.directory, ignore_errors=True)
        return name

    def _load(self, node: str, name: str, *, zeros: bool = False) -> str:
        """Write a node's adapter, and have the servers load it."""
        weights = self._adapters.state(node)
        if zeros:
            weights = {key: torch.zeros_like(value) for key, value in weights.items()}
        directory, building = self.directory / name, self.directory / f".{name}"
        try:
            shutil.rmtree(building, ignore_errors=True)
            self._adapters.write(node, building, weights)
            shutil.rmtree(directory, ignore_errors=True)
            building.rename(directory)
        except OSError as error:
            raise FlowtuneError(
                f"cannot write an adapter for vLLM to {directory}: {error.strerror or error}"
            ) from error
        self._fleet.wait(self._fleet.load(name, str(directory)))
        return name


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
