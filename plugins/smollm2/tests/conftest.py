"""A cache of its own for every test, and a package with a stand-in for the model's GGUF file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flowtune_smollm2 import carrier

GGUF_BYTES = b"stands in for the GGUF file"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FLOWTUNE_CACHE, which does not exist yet."""
    monkeypatch.setenv("FLOWTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The GGUF file of an installed package, which is not the real one."""
    package = tmp_path / "site" / "carrier_for_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package is not to be imported')")
    (package / carrier.GGUF).write_bytes(GGUF_BYTES)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(carrier, "PACKAGE", package.name)
    monkeypatch.setattr(carrier, "GGUF_SHA256", hashlib.sha256(GGUF_BYTES).hexdigest())
    return package / carrier.GGUF
