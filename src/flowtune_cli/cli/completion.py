"""What a word on the command line can be completed to: tasks, runs, checkpoints, settings.

torch and transformers are not imported for it. Whatever is wrong, such as a settings file that
cannot be read, there is just nothing to complete.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import stdout

if TYPE_CHECKING:
    from ..registry import Registry
    from ..runs.directory import RunDirectory

Complete = Callable[[typer.Context, str], list[str]]


def _completer(find: Callable[[typer.Context, str], Iterable[str]]) -> Complete:
    """What is found of what begins with the incomplete word, with whatever is printed on stderr."""

    @functools.wraps(find)
    def complete(context: typer.Context, incomplete: str) -> list[str]:
        found: list[str] = []
        with stdout.foreign(), suppress(Exception):
            found.extend(find(context, incomplete))
        return [word for word in dict.fromkeys(found) if word.startswith(incomplete)]

    # typer looks at the types of the arguments, which must be there at run time.
    complete.__annotations__ = {"context": typer.Context, "incomplete": str}
    del complete.__wrapped__  # type: ignore[attr-defined]
    return complete


@_completer
def complete_task(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The tasks of plugins, and the programs of the settings file."""
    yield from _tasks(context)


@_completer
def complete_run(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The names of runs."""
    for run in _runs(context):
        yield run.path.name


@_completer
def complete_checkpoint(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The names of runs; after an '@', also which checkpoints they have."""
    from ..runs.reader import RunReader, has_data
    from .checkpoint_names import BEST, LAST

    for run in _runs(context):
        name = run.path.name
        if not incomplete.startswith(f"{name}@"):
            yield name
            continue
        yield f"{name}@{LAST}"
        with suppress(Exception):
            if has_data(run.store_path):
                with RunReader(run.store_path) as reader:
                    if reader.evaluations():
                        yield f"{name}@{BEST}"
        numbers = [int(p.name) for p in run.checkpoints.iterdir() if p.name.isdecimal()]
        yield from (f"{name}@{number}" for number in sorted(numbers))


@_completer
def complete_setting(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Every setting, as ``SECTION.KEY=``, with those of the task that is meant."""
    from ..config.settings import SECTIONS
    from .describe import options

    if "=" in incomplete:
        return
    for section, table in SECTIONS.items():
        yield from (f"{section}.{option.name}=" for option in options(table))
    meant = _task_of(context)
    for task in _tasks(context):
        prefix = f"tasks.{task}."
        if task == meant or incomplete.startswith(prefix):
            yield from (f"{key}=" for key in _origins(context, task) if key.startswith(prefix))
        else:
            yield prefix


@_completer
def complete_preset(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The presets of the task that is run, or of all."""
    from ..flow.preset import NO_PRESET

    meant = _task_of(context)
    for name, entry in _registry().entries("task").items():
        if meant in (None, name):
            yield from (preset.name for preset in entry.thing.presets)
    yield NO_PRESET


@_completer
def complete_split(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The splits of the task that is run."""
    meant = _task_of(context)
    entries = _registry().entries("task")
    if meant in entries:
        yield from entries[meant].thing.splits


@_completer
def complete_node(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The nodes of the run that the command is for."""
    run = _run_of(context)
    if run is not None:
        tables = run.settings["settings"]["tasks"]
        yield from tables.get(run.info.task, {}).get("nodes", {})


@_completer
def complete_model(context: typer.Context, incomplete: str) -> Iterator[str]:
    """The models of plugins."""
    yield from _registry().entries("model")


@_completer
def complete_thing(context: typer.Context, incomplete: str) -> Iterator[str]:
    """What ``flowtune show`` shows. Optimizers are left out, because they import torch."""
    from ..config.settings import SECTIONS
    from .show import CHEAP

    yield from SECTIONS
    for kind in CHEAP:
        yield from _registry().entries(kind)


def complete_from(names: Iterable[str]) -> Complete:
    """One of these."""
    return _completer(lambda context, incomplete: names)


@functools.cache
def _registry() -> Registry:
    from ..registry import load_registry

    return load_registry()


def _config(context: typer.Context) -> Path | None:
    """What ``--config`` said, which ``flowtune config`` calls otherwise."""
    found = context.params.get("config", context.params.get("file"))
    return found if isinstance(found, Path) else None


def _overrides(context: typer.Context) -> list[str]:
    return list(context.params.get("set_") or ())


def _tasks(context: typer.Context) -> Iterator[str]:
    from ..config.resolve import FILE
    from ..programs.find import programs

    yield from _registry().entries("task")
    file = _config(context) or FILE
    with suppress(Exception):
        yield from (n for n, _ in programs(file if file.is_file() else None, _overrides(context)))


def _runs(context: typer.Context) -> Iterator[RunDirectory]:
    """The runs of the directory that the settings name, the newest first."""
    from ..runs.directory import RunDirectory, list_runs
    from . import options

    found = options.settings(_registry(), config=_config(context), overrides=_overrides(context))
    for info in list_runs(found.settings.run.directory)[::-1]:
        yield RunDirectory(info.path)


def _run_of(context: typer.Context) -> RunDirectory | None:
    """The run that the words before name."""
    for name in ("run", "resume", "from_"):
        given = context.params.get(name)
        given = given[0] if isinstance(given, list) and given else given
        if isinstance(given, str):
            wanted = (given, given.rpartition("@")[0])
            return next((run for run in _runs(context) if run.path.name in wanted), None)
    return None


def _task_of(context: typer.Context) -> str | None:
    task = context.params.get("task")
    if task is None:
        run = _run_of(context)
        task = None if run is None else run.info.task
    return task


def _origins(context: typer.Context, task: str) -> Iterable[str]:
    """The keys of all settings with this task."""
    from . import options
    from .programs import find, given

    config, overrides = _config(context), _overrides(context)
    found = find(_registry(), task, given(), config=config, overrides=overrides)
    return options.settings(
        _registry(), found.task_class, config=config, overrides=overrides, flags=found.flags
    ).origins
