"""A run's flow as it is exported: its nodes as trained, and what is said of its base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..flow.adapters import link_adapters
from .output import note
from .programs import find, given
from .run_overrides import RunOverrides

if TYPE_CHECKING:
    from ..config.settings import ModelSettings
    from ..exports.folder import About
    from ..flow.node import Node
    from ..registry import Registry
    from ..runs.directory import RunDirectory


@dataclass(frozen=True)
class ExportedFlow:
    """What an export is made of.

    Args:
        model: the settings of the base model.
        nodes: with the settings of the run; each knows whether it has an adapter.
    """

    about: About
    model: ModelSettings
    nodes: Sequence[Node]


def exported_flow(
    registry: Registry,
    run: RunDirectory,
    checkpoint: Path,
    config: Path | None,
    overrides: Sequence[str] | None,
) -> ExportedFlow:
    """The flow of a run's checkpoint. Settings that now differ are used, with a note.

    Raises:
        UsageError: its task is not installed, its settings no longer fit, or its model or
            tokenizer is not there.
    """
    from ..exports.folder import About
    from ..models.facts import base_model, texts
    from ..training.checkpoint import nodes_with_adapters

    found = find(registry, None, given(), config=config, overrides=overrides, run=run)
    settings = RunOverrides(
        registry, found.task_class, run, config=config, overrides=overrides, flags=found.flags
    )
    resolved = settings.trained()
    for difference in settings.differences:
        note(f"differs from the run: {difference}")
    task = resolved.make_task()
    link_adapters(task.nodes, nodes_with_adapters(checkpoint))
    model = resolved.settings.model
    facts, template = texts(model, registry)
    trained = {"flowtune": __version__, "task": task.name, "run": run.path.name}
    about = About(base_model(model, registry), facts, template, trained)
    return ExportedFlow(about, model, task.nodes)
