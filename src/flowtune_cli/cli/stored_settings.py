"""The contents of settings.json: how a run was made, so that it can be resumed and reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from ..runs.directory import RunDirectory

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..flow.example import Example
    from ..flow.task import Task


def to_store(
    resolved: Resolved, config: Path | None, checkpoint: Path | None, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of settings.json.

    Args:
        config: the settings file.
        checkpoint: what the run goes on from.
        data: as ``describe`` gives it.
    """
    return {
        **resolved.stored,
        "config": None if config is None else str(config.absolute()),
        "model_sha256": model_digest(resolved.settings.model.name),
        "from": None if checkpoint is None else str(checkpoint.absolute()),
        "data": dict(data),
    }


def describe(
    task: Task, data: Path | None, split: str, examples: Sequence[Example], resolved: Resolved
) -> dict[str, Any]:
    """What a run stores of its examples: enough to tell whether they have changed."""
    from ..training.loop import training_order
    from .examples import fingerprint

    training = resolved.settings.training
    order = training_order(examples, training.seed, training.limit, training.passes)
    return {
        "path": None if data is None else str(data.absolute()),
        "split": split,
        "examples": len(order),
        "sha256": fingerprint(task, order),
    }


def model_digest(name: str) -> str | None:
    """What a run stores of a local model; None for one of a plugin or the hub.

    Args:
        name: the setting ``model.name``, which is absolute where it is a path.
    """
    from ..models.digest import weights_digest

    path = Path(name)
    return weights_digest(path) if path.is_absolute() and path.exists() else None


def stored_settings(run: RunDirectory) -> dict[str, Any]:
    """What a run's settings.json says: settings, origins, config, from, data.

    Raises:
        UsageError: it lacks some of these.
    """
    stored = run.settings
    needed = ("settings", "origins", "config", "from", "data")
    if not isinstance(stored, dict) or not stored.keys() >= set(needed):
        raise UsageError(f"{run.path / 'settings.json'} lacks some of: {', '.join(needed)}")
    return stored
