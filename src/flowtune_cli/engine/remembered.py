"""Lists the models that were proved on this machine, without torch: see ``proof_cache``."""

from __future__ import annotations

import json
from pathlib import Path

from ..flow.model_source import cache_directory


def proofs_directory() -> Path:
    """Where proofs are remembered, a file each."""
    return cache_directory() / "proofs"


def remembered() -> dict[str, str]:
    """How each model is run, by its name, dtype and device; as it was proved last."""
    found: dict[str, str] = {}
    files = proofs_directory().glob("*.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        try:
            content = json.loads(file.read_text())
            found[content["model"]] = content["text"]
        except (OSError, ValueError, TypeError, KeyError):
            # A damaged file is a model that will be proved again.
            continue
    return found
