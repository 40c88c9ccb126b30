"""The contents of settings.json: how a run was made, so that it can be resumed and reused."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from ..flow.known_inputs import kinds_of
from ..flow.paths import place_text
from ..runs.directory import RunDirectory
from ..runs.example_digests import (
    ExampleDigest,
    difference,
    digest_of_all,
    example_digests,
    read_digests,
)
from .output import note
from .task_code import code_digest

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..flow.example import Example


def to_store(
    resolved: Resolved,
    config: Path | None,
    checkpoint: Path | None,
    data: Mapping[str, Any],
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The contents of settings.json.

    Args:
        config: the settings file.
        checkpoint: what the run goes on from.
        data: what ``describe`` stores.
        renamed: by the name of a node, that which it has in the checkpoint.
    """
    from ..programs.files import file_digests

    tasks = resolved.settings.tasks
    values = {} if resolved.task is None else tasks[resolved.task.name]
    return {
        **resolved.stored,
        "config": None if config is None else str(config.absolute()),
        "program_sha256": file_digests(values),
        "task_sha256": None if resolved.task is None else code_digest(resolved.task.task_class),
        "model_sha256": model_digest(resolved.settings.model.name),
        "model_texts_sha256": model_texts_digest(resolved.settings.model.name),
        **node_model_digests(values),
        "from": None if checkpoint is None else str(checkpoint.absolute()),
        **({"renamed": dict(renamed)} if renamed else {}),
        "data": dict(data),
    }


@dataclass(frozen=True)
class TrainingData:
    """What a run stores of its examples: enough to tell whether and where they have changed.

    Args:
        stored: the ``data`` of settings.json.
        digests: those of the examples of the first pass, in the order of training.
    """

    stored: Mapping[str, Any]
    digests: Sequence[ExampleDigest]


def describe(
    data: Path | None, split: str, examples: Sequence[Example], resolved: Resolved
) -> TrainingData:
    """What a run with these settings stores of ``examples``, those of its data and split."""
    from ..training.order import training_order

    training = resolved.settings.training
    # The seed gives the order of further passes.
    order = training_order(examples, training.seed, training.limit, 1)
    digests = example_digests(order, note)
    described = {
        "path": None if data is None else place_text(data),
        "split": split,
        "examples": len(order) * training.passes,
        "available": len(examples),
        "inputs": kinds_of(order),
        "examples_sha256": digest_of_all(digests),
    }
    return TrainingData(described, digests)


def check_unchanged(run: RunDirectory, examples: Sequence[Example], now: TrainingData) -> None:
    """Check that examples are those that a run began with, in their order.

    Args:
        now: what ``describe`` says of ``examples``, with the run's settings.

    Raises:
        UsageError: they are not; names the first one that differs, and says what to do.
    """
    stored = stored_settings(run)["data"]
    if stored.get("examples_sha256") == now.stored["examples_sha256"]:
        return
    path, split = now.stored["path"], now.stored["split"]
    raise UsageError(
        f"the data has changed since run '{run.path.name}' began, in split '{split}' of"
        f" {path or 'the default data'}: {_difference(run, examples, now)}. Bring the data back,"
        " or begin a new run with what this one has learned, by"
        f" --from {shlex.quote(run.path.name)}."
    )


def _difference(run: RunDirectory, examples: Sequence[Example], now: TrainingData) -> str:
    """Where the examples differ from those that the run began with, in words."""
    stored = stored_settings(run)["data"]
    ids = {example.id for example in examples}
    try:
        then = read_digests(run.examples_path)
    except UsageError:  # missing or damaged; what it says is for this message alone
        then = []
    if digest_of_all(then) == stored.get("examples_sha256"):
        found = difference(then, now.digests, ids)
        counts = now.stored["available"], stored["available"]
        more = "" if counts[0] == counts[1] else " (of {} examples now, and {} then)"
        return f"{found}{more.format(*counts)}"
    return (
        f"it gives {now.stored['examples']} examples to train on, which are not the run's"
        f" {stored['examples']}, or not in their order"
    )


def model_digest(name: str) -> str | None:
    """What a run stores of a local model; None for one of a plugin or the hub.

    Args:
        name: the setting ``model.name``, which is absolute where it is a path.
    """
    from ..models.digest import weights_digest

    path = Path(name)
    return weights_digest(path) if path.is_absolute() and path.exists() else None


def model_texts_digest(name: str) -> str | None:
    """The same of its tokenizer and chat template."""
    from ..models.digest import texts_digest

    path = Path(name)
    return texts_digest(path) if path.is_absolute() and path.is_dir() else None


def node_model_digests(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What a run stores of the local models that play single nodes, by their paths.

    Args:
        values: the settings of its task.
    """
    models = (node.get("model") for node in values.get("nodes", {}).values())
    names = sorted({model for model in models if isinstance(model, str)})
    found = {name: model_digest(name) for name in names}
    digests = {name: digest for name, digest in found.items() if digest is not None}
    return {"node_models_sha256": digests} if digests else {}


def settings_file(run: RunDirectory, config: Path | None) -> Path | None:
    """The settings file that is read with a run: ``config``, or else the run's own."""
    stored = stored_settings(run)["config"]
    if config is not None or stored is None:
        return config
    # What it said is stored. ./flowtune.toml was not read then, and is not now.
    return Path(stored) if Path(stored).is_file() else Path(os.devnull)


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
