"""The run directory: where a run lives, what it says of itself, and who works in it."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from .atomic import read_json, write_json
from .lock import hold, is_held
from .versions import package_versions

State = Literal["training", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """What a run says of itself.

    Args:
        state: a ``State``; "interrupted" when it says "training" and no process does so; or
            "unreadable", in a listing, and then ``problem`` says why.
        episodes: how many were played when this was last written.
        created: ISO 8601, UTC.
        versions: of Python, of the packages that results depend on, and of the plugins.
        resume: the command that goes on with it.
    """

    path: Path
    name: str
    task: str = ""
    model: str = ""
    state: str = "unreadable"
    episodes: int = 0
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    resume: str = ""
    problem: str = ""


class RunDirectory:
    """One run's directory: ``run.json``, ``settings.json``, ``store.sqlite``, ``checkpoints/``.

    Make one with ``create`` or ``open``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store_path = path / "store.sqlite"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(
        cls,
        parent: Path,
        name: str | None = None,
        *,
        task: str,
        model: str,
        settings: Mapping[str, Any],
    ) -> RunDirectory:
        """Make a new run; it is there as a whole or not at all, and never somebody else's.

        Args:
            parent: the directory of all runs; made if it is not there.
            name: its name; None counts up: TASK-001, TASK-002 ...
            settings: the resolved settings and where they came from, as JSON values.

        Raises:
            UsageError: there is a run of that name already, or it cannot be a name.
            FlowtuneError: the directory cannot be written.
        """
        if name is not None:
            cls.check_name(parent, name)
        building = parent / f".new-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            (building / "checkpoints").mkdir(parents=True)
            (building / "lock").touch()
            write_json(building / "settings.json", settings)
            while True:
                path = parent / (name or _next_name(parent, task))
                about = {
                    "name": path.name,
                    "task": task,
                    "model": model,
                    "state": "training",
                    "episodes": 0,
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "versions": package_versions(),
                    "resume": f"flowtune train --resume {shlex.quote(str(path))}",
                }
                write_json(building / "run.json", about)
                if not path.exists() and _renamed(building, path):
                    return cls(path)
                if name is not None:
                    raise _taken(parent, name)
        except OSError as error:
            raise FlowtuneError(
                f"cannot create a run in {parent}: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    @classmethod
    def check_name(cls, parent: Path, name: str) -> None:
        """Check that a new run can have this name, as ``create`` does.

        Raises:
            UsageError: there is a run of that name already, or it cannot be a name.
        """
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(
                f"'{name}' cannot be a run's name: use letters, digits, '_', '-' and '.', and"
                " begin with a letter or digit."
            )
        if (parent / name).exists():
            raise _taken(parent, name)

    @classmethod
    def open(cls, path_or_name: str | Path, parent: Path) -> RunDirectory:
        """Open a run by its name in ``parent``, or by its path.

        Raises:
            UsageError: there is none; suggests the nearest name and lists all.
        """
        candidates = [parent / path_or_name, Path(path_or_name)]
        for path in candidates:
            if (path / "run.json").is_file():
                return cls(path)
        for path in candidates:
            if path.exists() and path.name:
                raise UsageError(f"{path} is not a run: it has no run.json")
        known = [run.name for run in list_runs(parent)]
        raise UsageError(f"{unknown_name('run', str(path_or_name), known)} Runs are in {parent}.")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run while training in it. The lock dies with the process.

        Raises (on entering):
            UsageError: another process trains in it; says which, on which host.
        """
        return hold(self.path / "lock", f"run '{self.path.name}' ({self.path})")

    @property
    def info(self) -> RunInfo:
        """What the run says of itself now.

        Raises:
            FlowtuneError: run.json cannot be read.
        """
        about = self._about()
        state = about["state"]
        if state == "training" and not is_held(self.path / "lock"):
            state = "interrupted"
        return RunInfo(
            path=self.path,
            name=self.path.name,
            task=about["task"],
            model=about["model"],
            state=state,
            episodes=about["episodes"],
            created=about["created"],
            versions=about["versions"],
            resume=about["resume"],
        )

    def update(self, *, state: State | None = None, episodes: int | None = None) -> None:
        """Say how far the run is. Only the process that holds its lock may."""
        if state is not None and state not in get_args(State):
            raise ValueError(f"'{state}' is no state of a run; it has {get_args(State)}")
        about = self._about()
        if state is not None:
            about["state"] = state
        if episodes is not None:
            about["episodes"] = episodes
        write_json(self.path / "run.json", about)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as ``create`` was given them, or as they were changed since."""
        return read_json(self.path / "settings.json")

    def change_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings anew. Only the process that holds the run's lock may."""
        write_json(self.path / "settings.json", settings)

    def _about(self) -> dict[str, Any]:
        file = self.path / "run.json"
        about = read_json(file)
        needed = ("task", "model", "state", "episodes", "created", "versions", "resume")
        missing = [key for key in needed if not isinstance(about, dict) or key not in about]
        if missing:
            raise FlowtuneError(f"{file} does not describe a run: it lacks {', '.join(missing)}")
        return about


def list_runs(parent: Path) -> list[RunInfo]:
    """The runs in ``parent``, the oldest first. One that cannot be read says so in its state."""
    runs = []
    for file in parent.glob("*/run.json"):
        if file.parent.name.startswith("."):
            continue
        try:
            runs.append(RunDirectory(file.parent).info)
        except FlowtuneError as error:
            runs.append(RunInfo(file.parent, file.parent.name, problem=str(error)))
    return sorted(runs, key=lambda run: (run.created, run.name))


def _taken(parent: Path, name: str) -> UsageError:
    return UsageError(
        f"there is a '{name}' in {parent} already. Go on with that run by"
        f" --resume {shlex.quote(name)}, or give this one another name."
    )


def _next_name(parent: Path, task: str) -> str:
    stem = re.sub(r"[^\w.-]", "-", task).lstrip(".-") or "run"
    numbers = [
        int(match[1])
        for path in parent.iterdir()
        if (match := re.fullmatch(re.escape(stem) + r"-([0-9]+)", path.name))
    ]
    return f"{stem}-{max(numbers, default=0) + 1:03}"


def _renamed(source: Path, target: Path) -> bool:
    """Give a directory its name, unless another process took that name just now."""
    try:
        source.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    return True
