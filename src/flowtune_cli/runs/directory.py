"""The run directory: creates, opens, locks and lists runs, and reads their state."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from ..flow.errors import FlowtuneError, UsageError, unknown_name
from .atomic import read_json, write_json
from .example_digests import ExampleDigest, write_digests
from .lock import brief_lock, exclusive_lock, is_locked
from .usage import Usage
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
        resume: the command that resumes the run, wherever it is now.
        engine: how its model was last run, such as "cascade, learning packed"; empty before.
        usage: what it has taken so far.
        tags, note: what the user has said of it.
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
    usage: Usage = field(default_factory=Usage)
    tags: Sequence[str] = ()
    note: str = ""
    problem: str = ""


class RunDirectory:
    """One run's directory.

    It has ``run.json``, ``settings.json``, ``examples.jsonl`` (the digests of its examples),
    ``store.sqlite``, ``checkpoints/``, while it trains on flows with effects ``journal.jsonl``, and
    ``untrained.json`` where its evaluations compare results with those before training.
    Make one with ``create`` or ``open``. Its path is absolute, as messages show it.
    """

    def __init__(self, path: Path) -> None:
        path = path.absolute()
        self.path = path
        self.store_path = path / "store.sqlite"
        self.examples_path = path / "examples.jsonl"
        self.journal_path = path / "journal.jsonl"
        self.untrained_path = path / "untrained.json"
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
        parent = parent.absolute()
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
                    "resume": _resume(path),
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
        parent = parent.absolute()
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
        parent = parent.absolute()
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

    def remove(self) -> None:
        """Delete the run. Only for the process that has locked it.

        Raises:
            FlowtuneError: it cannot be deleted; says what is left of it.
        """
        hidden = self.path.with_name(f".removed-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            self.path.rename(hidden)  # first: what is left of it must be no run
        except OSError as error:
            raise FlowtuneError(
                f"run '{self.path.name}' stays as it is: {self.path} cannot be removed:"
                f" {error.strerror or error}"
            ) from error
        try:
            shutil.rmtree(hidden)
        except OSError as error:
            raise FlowtuneError(
                f"run '{self.path.name}' is no run any more, but what it had is still in"
                f" {hidden}: {error.strerror or error}. Delete that by hand"
            ) from error

    def discard(self) -> None:
        """Delete a run that has learned nothing. Only for the process that has locked it."""
        with suppress(FlowtuneError):  # then it stays, as a run that failed
            self.remove()

    def rename(self, name: str) -> RunDirectory:
        """Give the run another name, in the same directory. Only for one who has locked it.

        Raises:
            UsageError: a run of that name exists, or the name is not allowed.
            FlowtuneError: it cannot be renamed.
        """
        self.check_name(self.path.parent, name)
        renamed = RunDirectory(self.path.with_name(name))
        try:
            if not _rename(self.path, renamed.path):
                raise _name_taken(self.path.parent, name)
        except OSError as error:
            raise FlowtuneError(
                f"run '{self.path.name}' cannot be renamed in {self.path.parent}:"
                f" {error.strerror or error}"
            ) from error
        renamed.change_info(lambda info: {"name": name, "resume": _resume(renamed.path)})
        return renamed

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
            resume=_resume(self.path),
            engine=info.get("engine", ""),
            usage=Usage.from_json(info.get("usage", {})),
            tags=tuple(info.get("tags", ())),
            note=info.get("note", ""),
        )

    def update(
        self,
        *,
        state: State | None = None,
        episodes: int | None = None,
        engine: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Update run.json. Only for the process that has locked the run."""
        if state is not None and state not in get_args(State):
            raise ValueError(f"'{state}' is not one of the states {get_args(State)}")
        given = {"state": state, "episodes": episodes, "engine": engine}
        changes: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if usage is not None:
            changes["usage"] = usage.to_json()
        self.change_info(lambda info: changes)

    def change_info(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        """Change what run.json says, also while another process trains the run.

        Args:
            change: is given what it says; returns what it is to say instead, by name.
        """
        with brief_lock(self.path / "run.json.lock"):
            info = self._read_info()
            write_json(self.path / "run.json", {**info, **change(info)})

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
    for file in parent.absolute().glob("*/run.json"):
        if file.parent.name.startswith("."):
            continue
        try:
            runs.append(RunDirectory(file.parent).info)
        except FlowtuneError as error:
            runs.append(RunInfo(file.parent, file.parent.name, problem=str(error)))
    return sorted(runs, key=lambda run: (run.created, run.name))


def _resume(path: Path) -> str:
    return f"flowtune train --resume {shlex.quote(str(path.absolute()))}"


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
