"""Checkpoints: everything that a run needs to resume exactly, written atomically."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.adapters import Adapters
from ..engine.stored_adapters import stored_nodes
from ..flow.errors import FlowtuneError, UsageError
from ..flow.node import Node, SelfLearning
from ..learning.learner import Learner
from ..learning.node_optimizers import WriteError
from .progressive import Progressive


@dataclass(frozen=True)
class Position:
    """How far a run is: everything before this was played and learned from."""

    episodes: int = 0
    batches: int = 0
    failed: int = 0
    played: int = 0


def save_checkpoint(
    directory: Path,
    *,
    position: Position,
    adapters: Adapters,
    learner: Learner,
    nodes: Sequence[Node],
    progressive: Progressive,
    keep: int,
    best: int | None = None,
) -> Path:
    """Write ``directory/EPISODES/`` atomically, and delete older ones: see ``prune``.

    Raises:
        FlowtuneError: it could not be written (a full disk, say); older ones are untouched.
    """
    target = directory / f"{position.episodes:07d}"
    if is_checkpoint(target):
        return target
    partial = directory / f".{target.name}.partial"
    try:
        for left_over in directory.glob(".*.partial"):  # by a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.mkdir(parents=True)
        adapters.save(partial / "adapters")
        learner.optimizers.save(partial / "optimizers")
        state: dict[str, Any] = {
            "position": vars(position),
            "optimizers": learner.optimizers.names,
            "progressive": progressive.state(),
            "nodes": {node.name: node.state() for node in nodes if isinstance(node, SelfLearning)},
        }
        (partial / "state.json").write_text(_json(state) + "\n")
        _flush(partial)
        os.replace(partial, target)
        _flush_directory(directory)
    except (OSError, WriteError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise FlowtuneError(
            f"the checkpoint {target} could not be written: {error}. Older checkpoints are"
            " untouched; make room and go on with --resume."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    prune(directory, keep, best)
    return target


def prune(directory: Path, keep: int, best: int | None) -> None:
    """Delete all checkpoints but the newest ``keep``, and the one after ``best`` episodes."""
    for old in checkpoints(directory)[:-keep]:
        if int(old.name) != best:
            shutil.rmtree(old)


def _json(state: Mapping[str, Any]) -> str:
    try:
        return json.dumps(state, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        for name, of_node in state["nodes"].items():
            try:
                json.dumps(of_node, allow_nan=False)
            except (TypeError, ValueError) as own:
                raise FlowtuneError(
                    f"node '{name}', which learns by itself, has a state that is not made of JSON"
                    f" values: {own}"
                ) from error
        raise


def load_checkpoint(
    directory: Path,
    *,
    adapters: Adapters,
    learner: Learner | None,
    nodes: Sequence[Node],
) -> tuple[Position, Progressive]:
    """Read a checkpoint into the adapters, optimizers and self-learning nodes.

    Args:
        learner: None when nothing will be learned.

    Raises:
        UsageError: it is not whole, or lacks an adapter or the state of a node.
    """
    state = _state(directory)
    adapters.load(directory / "adapters")
    if learner is not None:
        learner.optimizers.load(directory / "optimizers")
    for node in nodes:
        if isinstance(node, SelfLearning):
            if node.name not in state["nodes"]:
                raise UsageError(
                    f"the checkpoint {directory} has nothing of node '{node.name}', which learns by"
                    " itself: was it trained with another task or other nodes?"
                )
            node.load_state(state["nodes"][node.name])
    return Position(**state["position"]), Progressive.from_state(state["progressive"])


def optimizer_names(directory: Path) -> dict[str, str]:
    """The names of the optimizers whose states a checkpoint holds, by node."""
    names: dict[str, str] = _state(directory)["optimizers"]
    return names


def node_states(directory: Path) -> dict[str, Any]:
    """What nodes that learn by themselves have learned, by node."""
    states: dict[str, Any] = _state(directory)["nodes"]
    return states


def nodes_with_adapters(directory: Path | None) -> set[str]:
    """The nodes that have an adapter in a checkpoint, be it shared; none without a checkpoint."""
    return set() if directory is None else set(stored_nodes(directory / "adapters"))


def _state(directory: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((directory / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory} is not a checkpoint: {error}") from None
    return state


def is_checkpoint(directory: Path) -> bool:
    """Whether a whole checkpoint is there."""
    return (directory / "state.json").is_file() and not directory.name.startswith(".")


def checkpoints(directory: Path) -> list[Path]:
    """The whole checkpoints in a run's directory of them, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if is_checkpoint(path))


def _flush(directory: Path) -> None:
    """Have every file below a directory on disk before it is renamed."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
