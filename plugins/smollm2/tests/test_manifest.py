"""What a manifest notices: sizes always, contents when asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from flowtune_smollm2 import manifest
from flowtune_smollm2.manifest import is_complete, is_intact, write_manifest

WEIGHTS = b"weights" * 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(WEIGHTS)
    (directory / "config.json").write_text("{}")
    write_manifest(directory, "the source's sum")
    return directory


def test_it_lists_every_file(directory: Path) -> None:
    written = json.loads((directory / "manifest.json").read_text())
    assert written["source"] == "the source's sum"
    assert written["files"] == {
        "config.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
        "model.safetensors": {"bytes": 700, "sha256": hashlib.sha256(WEIGHTS).hexdigest()},
    }
    assert is_complete(directory)
    assert is_intact(directory)


def test_changed_contents_are_noticed_when_asked_for(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"W" + WEIGHTS[1:])
    assert is_complete(directory)
    assert not is_intact(directory)


@pytest.mark.parametrize("damage", ["shorter", "lost", "no manifest", "bad manifest", "odd entry"])
def test_what_is_noticed_at_every_start(directory: Path, damage: str) -> None:
    weights, listing = directory / "model.safetensors", directory / "manifest.json"
    if damage == "shorter":
        weights.write_bytes(WEIGHTS[:-1])
    elif damage == "lost":
        weights.unlink()
    elif damage == "no manifest":
        listing.unlink()
    elif damage == "bad manifest":
        listing.write_text("[1, 2")
    else:
        listing.write_text('{"files": {"config.json": 2}}')
    assert not is_complete(directory)
    assert not is_intact(directory)


def test_completeness_reads_no_file_but_the_manifest(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "sha256", lambda path: pytest.fail(f"{path} was read"))
    assert is_complete(directory)
