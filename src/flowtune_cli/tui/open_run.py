"""A run that is open in the application, in any state: new, training, killed or finished."""

from __future__ import annotations

from pathlib import Path

from ..flow.errors import FlowtuneError
from ..runs.directory import RunDirectory, RunInfo
from ..runs.reader import RunReader


class OpenRun:
    """A run's metadata and the reader of its store, which is opened as soon as the store exists.

    Attributes:
        reader: None as long as the store cannot be read; ``problem`` says why.
        info: the run's metadata; the state "unreadable" if run.json cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        self.reader: RunReader | None = None
        self.problem = ""
        self.info = RunInfo(path, path.name)
        self.refresh()

    @property
    def name(self) -> str:
        return self.directory.path.name

    @property
    def live(self) -> bool:
        return self.info.state == "training"

    def refresh(self) -> tuple[RunInfo, str, int]:
        """Read again; the returned value changes whenever something is new."""
        try:
            self.info = self.directory.info
        except FlowtuneError as error:
            path = self.directory.path
            self.info = RunInfo(path, path.name, problem=str(error))
        if self.reader is None:
            try:
                self.reader = RunReader(self.directory.store_path)
                self.problem = ""
            except FlowtuneError as error:
                self.problem = str(error)
        changes = -1 if self.reader is None else self.reader.changes()
        return self.info, self.problem, changes

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None
