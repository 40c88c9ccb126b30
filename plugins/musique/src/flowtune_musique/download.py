"""Where the official files come from: a file, a folder that holds them, or the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from flowtune_cli import DataError


def official_name(variant: str, split: str) -> str:
    """The official file's name; ``variant`` is ``ans`` or ``full``."""
    return f"musique_{variant}_v1.0_{split}.jsonl"


def locate(source: Path | None, name: str, *, repo: str, revision: str) -> Path:
    """The file to read: ``source`` itself, the official file in it (also ``.gz``), or a download.

    Raises:
        DataError: there is no such file; says which name was looked for, and where.
    """
    if source is None:
        return download(name, repo=repo, revision=revision)
    if source.is_file():
        return source
    if not source.is_dir():
        raise DataError(f"--data {source}: there is no such file or folder")
    found = next((file for file in (source / name, source / f"{name}.gz") if file.is_file()), None)
    if found is None:
        others = sorted(path.name for path in source.glob("*.jsonl*"))
        raise DataError(
            f"--data {source}: there is no {name} in this folder;"
            f" its .jsonl files: {', '.join(others) or 'none'}."
            " Name a folder that holds the official file, or one JSON-lines file."
        )
    return found


def download(
    name: str,
    *,
    repo: str,
    revision: str,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Download a file of a Hugging Face dataset into the hub's cache, unless it is there.

    Args:
        endpoint: the hub's address; None is HF_ENDPOINT, or the public hub.
        cache: the cache folder; None is the hub library's own.

    Raises:
        DataError: it cannot be had (offline, no such dataset, revision or file).
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        path = hf_hub_download(
            repo, name, repo_type="dataset", revision=revision, endpoint=endpoint, cache_dir=cache
        )
    # The hub library raises OSError for what it finds missing and HTTPError for a broken transfer.
    except (OSError, HTTPError, HFValidationError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} cannot be downloaded from the dataset '{repo}' (revision '{revision}') at"
            f" {endpoint or constants.ENDPOINT}: {reason} Pass --data with a folder that holds"
            f" {name}, or set hub_repo to a dataset that has it."
        ) from error
    return Path(path)
