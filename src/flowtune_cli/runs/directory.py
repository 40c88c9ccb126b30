"""The run directory: creates, opens, locks and lists runs, and reads their state."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from .atomic import read_json, write_json
from .example_digests import ExampleDigest, write_digests
from .lock import exclusive_lock, is_locked
from .versions import package_versions

State = Literal["training", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class RunInfo:
    """The metadata of a run.

    Args:
        state: a ``State``; "interrupted" if run.json says "training" but no process is training;
            or "unreadable", in a listing, with the reason in ``problem``.
        episodes: the number of episodes when run.json was last written.
        created: ISO 8601, UTC.
        versions: of Python, of the packages that results depend on, and of the plugins.
        resume: the command that resumes the run.
        engine: how its model was last run, such as "cascade, learning packed"; empty before.
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
    engine: str = ""
    problem: str = ""


class RunDirectory:
    """One run's directory.

    It has ``run.json``, ``settings.json``, ``examples.jsonl`` (the digests of its examples),
    ``store.sqlite``, ``checkpoints/``, and while it trains on flows with effects ``journal.jsonl``.
    Make one with ``create`` or ``open``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store_path = path / "store.sqlite"
        self.examples_path = path / "examples.jsonl"
        self.journal_path = path / "journal.jsonl"
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
        examples: Sequence[ExampleDigest] = (),
        launch: str = "",
    ) -> RunDirectory:
        """Create a new run, atomically, and never over another one.

        Args:
            parent: the directory of all runs; created if it does not exist.
            name: the run's name; None counts up: TASK-001, TASK-002 ...
            settings: the content of settings.json, as JSON values.
            examples: the digests of those that are trained on.
            launch: names the launch of processes that begins it, see ``of_launch``.

        Raises:
            UsageError: a run of that name exists, or the name is not allowed.
            FlowtuneError: the directory cannot be written.
        """
        cls.check_name(parent, name)
        building = parent / f".new-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            (building / "checkpoints").mkdir(parents=True)
            (building / "lock").touch()
            write_json(building / "settings.json", settings)
            write_digests(building / "examples.jsonl", examples)
            while True:
                path = parent / (name or _next_name(parent, task))
                info = {
                    "name": path.name,
                    "task": task,
                    "model": model,
                    "state": "training",
                    "episodes": 0,
                    "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "versions": package_versions(),
                    "resume": f"flowtune train --resume {shlex.quote(str(path.absolute()))}",
                    **({"launch": launch} if launch else {}),
                }
                write_json(building / "run.json", info)
                if not path.exists() and _rename(building, path):
                    return cls(path)
                if name is not None:
                    raise _name_taken(parent, name)
        except OSError as error:
            raise FlowtuneError(
                f"cannot create a run in {parent}: {error.strerror or error}"
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    @classmethod
    def check_name(cls, parent: Path, name: str | None) -> None:
        """Check that a new run can have this name, as ``create`` does; None checks the parent.

        Raises:
            UsageError: a run of that name exists, or the name is not allowed.
        """
        if name is not None and not re.fullmatch(r"\w[\w.-]*", name):
            raise UsageError(
                f"'{name}' cannot be the name of a run: use letters, digits, '_', '-' and '.', and"
                " start with a letter or digit."
            )
        try:
            taken = (parent / (name or "")).exists()
        except OSError as error:
            raise UsageError(
                f"no run can be made as {parent / (name or '')}: {error.strerror}. Choose another"
                " name or run.directory."
            ) from None
        if taken and name is not None:
            raise _name_taken(parent, name)

    @classmethod
    def open(cls, path_or_name: str | Path, parent: Path) -> RunDirectory:
        """Open a run by its name in ``parent``, or by its path.

        Raises:
            UsageError: there is no such run; suggests the nearest name and lists all.
        """
        candidates = [parent / path_or_name, Path(path_or_name)]
        for path in candidates:
            if os.path.isfile(path / "run.json"):
                return cls(path)
        for path in candidates:
            if os.path.exists(path) and path.name:  # False, too, for a name that is too long
                raise UsageError(f"{path} is not a run: it has no run.json")
        names = [run.name for run in list_runs(parent)]
        raise UsageError(f"{unknown_name('run', str(path_or_name), names)} Runs are in {parent}.")

    @classmethod
    def of_launch(cls, parent: Path, launch: str) -> RunDirectory | None:
        """The newest run that this launch of processes has begun in ``parent``, if any."""
        found = []
        for file in parent.glob("[!.]*/run.json") if launch else ():
            with suppress(FlowtuneError):  # it is not this one
                info = read_json(file)
                if isinstance(info, dict) and info.get("launch") == launch:
                    found.append((str(info.get("created")), file.parent.name, file.parent))
        return cls(max(found)[-1]) if found else None

    def lock(self) -> AbstractContextManager[None]:
        """Lock the run for training. The lock ends with the process.

        Raises (on entering):
            UsageError: another process is training it; says which, on which host.
        """
        return exclusive_lock(self.path / "lock", f"run '{self.path.name}' ({self.path})")

    def discard(self) -> None:
        """Delete a run that has learned nothing. Only for the process that has locked it."""
        hidden = self.path.with_name(f".discarded-{os.getpid()}-{secrets.token_hex(4)}")
        with suppress(OSError):  # then it stays, as a run that failed
            self.path.rename(hidden)  # first: what is left of it must be no run
            shutil.rmtree(hidden, ignore_errors=True)

    @property
    def info(self) -> RunInfo:
        """The run's metadata, read now.

        Raises:
            FlowtuneError: run.json cannot be read.
        """
        info = self._read_info()
        state = info["state"]
        if state == "training" and not is_locked(self.path / "lock"):
            state = "interrupted"
        return RunInfo(
            path=self.path,
            name=self.path.name,
            task=info["task"],
            model=info["model"],
            state=state,
            episodes=info["episodes"],
            created=info["created"],
            versions=info["versions"],
            resume=info["resume"],
            engine=info.get("engine", ""),
        )

    def update(
        self,
        *,
        state: State | None = None,
        episodes: int | None = None,
        engine: str | None = None,
    ) -> None:
        """Update run.json. Only for the process that has locked the run."""
        if state is not None and state not in get_args(State):
            raise ValueError(f"'{state}' is not one of the states {get_args(State)}")
        info = self._read_info()
        if state is not None:
            info["state"] = state
        if episodes is not None:
            info["episodes"] = episodes
        if engine is not None:
            info["engine"] = engine
        write_json(self.path / "run.json", info)

    @property
    def settings(self) -> dict[str, Any]:
        """The content of settings.json."""
        return read_json(self.path / "settings.json")

    def change_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace settings.json. Only for the process that has locked the run."""
        write_json(self.path / "settings.json", settings)

    def _read_info(self) -> dict[str, Any]:
        file = self.path / "run.json"
        info = read_json(file)
        needed = ("task", "model", "state", "episodes", "created", "versions", "resume")
        missing = [key for key in needed if not isinstance(info, dict) or key not in info]
        if missing:
            raise FlowtuneError(f"{file} does not describe a run: it lacks {', '.join(missing)}")
        return info


def list_runs(parent: Path) -> list[RunInfo]:
    """The runs in ``parent``, oldest first. One that cannot be read has the state "unreadable"."""
    runs = []
    for file in parent.glob("*/run.json"):
        if file.parent.name.startswith("."):
            continue
        try:
            runs.append(RunDirectory(file.parent).info)
        except FlowtuneError as error:
            runs.append(RunInfo(file.parent, file.parent.name, problem=str(error)))
    return sorted(runs, key=lambda run: (run.created, run.name))


def _name_taken(parent: Path, name: str) -> UsageError:
    return UsageError(
        f"'{name}' already exists in {parent}. Resume that run with --resume {shlex.quote(name)},"
        " or choose another name."
    )


def _next_name(parent: Path, task: str) -> str:
    stem = re.sub(r"[^\w.-]", "-", task).lstrip(".-") or "run"
    numbers = [
        int(match[1])
        for path in parent.iterdir()
        if (match := re.fullmatch(re.escape(stem) + r"-([0-9]+)", path.name))
    ]
    return f"{stem}-{max(numbers, default=0) + 1:03}"


def _rename(source: Path, target: Path) -> bool:
    """Rename a directory; False if another process has just taken the name."""
    try:
        source.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    return True
