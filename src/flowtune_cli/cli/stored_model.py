"""The base model of a run: whether a local one is there, is still the same, or is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..flow.errors import UsageError
from .output import warn
from .stored_settings import model_digest, model_texts_digest, stored_settings

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..runs.directory import RunDirectory


def is_same_place(name: str, other: str) -> bool:
    """Whether two models are one directory or file, by whatever path."""
    paths = [Path(name), Path(other)]
    return all(p.is_absolute() for p in paths) and paths[0].resolve() == paths[1].resolve()


def is_same_model(stored: Mapping[str, Any], name: str) -> bool:
    """Whether a model has the weights that a run stored a digest of.

    Args:
        stored: the run's settings.json.
    """
    digest = model_digest(name)
    return digest is not None and digest == stored.get("model_sha256")


def check_model(run: RunDirectory, stored: Mapping[str, Any], name: str) -> None:
    """Check that a run's local model is there, with the weights that it was trained with.

    A tokenizer or a chat template that has changed is warned of.

    Raises:
        UsageError: it is not, and what to do.
    """
    path, digest = Path(name), stored.get("model_sha256")
    if not path.is_absolute():
        return
    if not path.exists():
        raise UsageError(
            f"the model of run '{run.path.name}' is gone: there is no {path}. Put it back, or say"
            " where it is now: --set model.name=PATH"
        )
    if digest is not None and model_digest(name) != digest:
        raise UsageError(
            f"{path} has other weights than when run '{run.path.name}' began, and what the run has"
            " learned cannot be used with them. Put the old ones back, or say where they are:"
            " --set model.name=PATH"
        )
    texts = stored.get("model_texts_sha256")
    if texts is not None and model_texts_digest(name) != texts:
        warn(
            f"the tokenizer or the chat template in {path} has changed since run"
            f" '{run.path.name}' began: prompts may read otherwise than those that it learned from"
        )


def check_node_models(
    run: RunDirectory, stored: Mapping[str, Any], values: Mapping[str, Any]
) -> None:
    """Check that the local models that play single nodes are what they were in the run.

    Args:
        stored: the run's settings.json.
        values: the settings of its task as they are now.

    Raises:
        UsageError: one is gone, or has other weights.
    """
    for name, node in values.get("nodes", {}).items():
        model = node.get("model")
        then = stored.get("node_models_sha256", {}).get(model) if isinstance(model, str) else None
        if then is not None and model_digest(model) != then:
            raise UsageError(
                f"{model}, which plays node '{name}', is gone or has other weights than when run"
                f" '{run.path.name}' began. Put the old ones back, or set the node's 'model'"
            )


def stored_model(run: RunDirectory, now: Resolved) -> dict[str, Any]:
    """The settings ``[model]`` of a run; of ``now``, the name counts where the model has moved.

    Raises:
        UsageError: a local model is not where it was, or not the same.
    """
    stored = stored_settings(run)
    model: dict[str, Any] = dict(stored["settings"]["model"])
    name = now.settings.model.name
    if now.origins["model.name"].layer == "command line" and is_same_model(stored, name):
        model["name"] = name
    check_model(run, stored, model["name"])
    return model
