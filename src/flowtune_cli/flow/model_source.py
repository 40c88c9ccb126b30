"""Base models that plugins provide: what each must be able to do, and where its files are kept."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from .errors import UsageError
from .paths import expanded


class ModelSource(ABC):
    """A base model that a plugin provides; the setting ``model.name`` selects it by its name.

    Attributes:
        name: letters and digits, with single '.', '_' or '-' between them.
        summary: one line for ``flowtune ls models``.
    """

    name: str
    summary: str = ""

    @property
    @abstractmethod
    def directory(self) -> Path:
        """Where the files are, or will be: a directory that transformers can load from.

        Below ``cache_directory()``, unless the plugin has a better place.
        """

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether ``directory`` is complete. Called at every start, so it must be cheap."""

    def prepare(self) -> Path:
        """Make the directory complete without the network, and return it.

        Override this where the files can be made from what is installed.

        Raises:
            UsageError: the files have to be fetched first; says how.
        """
        if not self.is_ready():
            raise UsageError(
                f"the model '{self.name}' is not on this machine. Fetch it with:"
                f" flowtune models fetch {self.name}"
            )
        return self.directory

    @abstractmethod
    def fetch(self, *, verify: bool = False) -> Path:
        """Make the directory complete, downloading what is missing, and return it.

        Must be safe to call from several processes at once.

        Args:
            verify: read every file that is there, and fetch again what is damaged.

        Raises:
            UsageError: it cannot be fetched; says what to do.
        """


def cache_directory() -> Path:
    """flowtune's cache: ``FLOWTUNE_CACHE``, or its folder in the user's cache directory."""
    import platformdirs

    override = os.environ.get("FLOWTUNE_CACHE")
    root = Path(override) if override else Path(platformdirs.user_cache_dir("flowtune", False))
    return expanded(root).absolute()
