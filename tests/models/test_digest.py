"""The digest of a model's weights knows it again elsewhere, and tells it from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.models.digest import weights_digest


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_of_weights_alone(tmp_path: Path, size: int) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(256)) * (size // 256 + 1))
    (second / "config.json").write_text("{}")
    assert weights_digest(first) == weights_digest(second)
    assert weights_digest(first) == weights_digest(first / "model.safetensors")
    for place in (0, size // 2, size):
        content = bytearray((first / "model.safetensors").read_bytes())
        begin = max(place - 20_000, 0)
        content[begin : place + 1] = bytes(255 - b for b in content[begin : place + 1])
        (second / "model.safetensors").write_bytes(content)
        assert weights_digest(first) != weights_digest(second)
    (second / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes() + b"x")
    assert weights_digest(first) != weights_digest(second)


def test_without_weights(tmp_path: Path) -> None:
    assert weights_digest(tmp_path) is None
