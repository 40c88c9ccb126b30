"""Loads a task to play: with the adapters of a run's checkpoint, or untrained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..flow.known_inputs import Kinds
from ..flow.task import Task
from ..learning.peers import ALONE, Peers
from . import options
from .alike import load_alike
from .checkpoint_names import find_checkpoint
from .origins import tell_origins
from .output import note
from .phase import phase
from .programs import find, given, ready
from .run_overrides import RunOverrides
from .stored_settings import stored_settings

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..config.settings import Settings
    from ..programs.find import Given
    from ..registry import Registry
    from ..training.session import Session


@dataclass(frozen=True)
class Player:
    """A task with its settings and checkpoint; ``set_up`` loads the model.

    Args:
        checkpoint: a run's checkpoint; None for the untrained task.
        made_by: identifies the model, checkpoint and settings, on which outputs depend.
        known_inputs: the inputs that the run's examples had; None if that is unknown.
    """

    registry: Registry
    resolved: Resolved
    task: Task
    checkpoint: Path | None
    made_by: str
    known_inputs: Kinds | None = None

    @property
    def label(self) -> str:
        """What is played, as part of a file's name: "first@800", or "untrained"."""
        if self.checkpoint is None:
            return "untrained"
        return f"{self.checkpoint.parent.parent.name}@{int(self.checkpoint.name)}"

    def set_up(self, peers: Peers = ALONE) -> Session:
        """Load the model, and the adapters of the checkpoint.

        Args:
            peers: the processes that play together, each with a model of its own.
        """

        def load(settings: Settings) -> Session:
            with phase(f"loading {settings.model.name}") as loading:
                # These import torch, which takes seconds.
                from ..training.checkpoint import load_checkpoint
                from ..training.session import set_up

                session = set_up(
                    self.task, settings, self.registry, self.checkpoint, on_phase=loading.now
                )
                if self.checkpoint is not None:
                    load_checkpoint(
                        self.checkpoint,
                        adapters=session.adapters,
                        learner=None,
                        nodes=self.task.nodes,
                    )
            return session

        return load_alike(load, self.resolved.settings, peers)


def load_player(
    registry: Registry,
    task_name: str | None,
    run_name: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
    preset: str | None = None,
    program: Given | None = None,
    *,
    model: str | None = None,
    needs_nodes: bool = True,
    peers: Peers = ALONE,
) -> Player:
    """The task with a run's checkpoint, by default the newest; without a run, untrained.

    Settings that now differ from the run's are used, with a note.

    Args:
        task_name: None where ``program`` or the run says what is meant.
        model: the base model, what ``--model`` said; with a run it has to be the run's.
        needs_nodes: a program without declared nodes is refused.
        peers: the processes that play together: the checkpoint that rank 0 finds.
    """
    run = checkpoint = None
    if run_name is not None:
        name = run_name
        run, checkpoint = peers.first(lambda: find_checkpoint(registry, name, config, overrides))
    found = find(
        registry, task_name, program or given(), config=config, overrides=overrides, run=run
    )
    task_class = found.task_class
    flags = {"model.name": model, "preset": preset, **found.flags}
    if run is None or checkpoint is None:
        resolved = options.settings(
            registry, task_class, config=config, overrides=overrides, flags=flags
        )
        made_by = f"untrained {resolved.settings.model.name}"
    else:
        settings = RunOverrides(
            registry, task_class, run, config=config, overrides=overrides, flags=flags
        )
        resolved = settings.trained()
        for difference in settings.differences:
            note(f"differs from the run: {difference}")
        made_by = f"run {run.path.name} of {run.info.created}, checkpoint {checkpoint.name}"
    tell_origins(resolved)
    made_by += f", settings {_digest(resolved, task_class.name)}"
    task = resolved.make_task()
    ready(task, resolved, run, needs_nodes=needs_nodes)
    known = None if run is None else stored_settings(run)["data"].get("inputs")
    return Player(registry, resolved, task, checkpoint, made_by, known)


def _digest(resolved: Resolved, task: str) -> str:
    """A short digest of the settings that outputs depend on."""
    values = resolved.settings.model_dump(mode="json")
    where = {"device", "devices"}
    model = {key: value for key, value in values["model"].items() if key not in where}
    text = json.dumps([model, values["training"]["seed"], values["tasks"].get(task)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
