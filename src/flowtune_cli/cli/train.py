"""``flowtune train``: begins a run, or resumes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError
from ..flow.paths import place_text
from . import options
from .completion import complete_checkpoint, complete_run
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    ModelOption,
    PresetOption,
    SetOption,
    SplitOption,
)
from .origins import tell_origins
from .output import note
from .programs import (
    GoldOption,
    ProgramOption,
    ProgramTaskArgument,
    RewardOption,
    find,
    given,
    ready,
    warn_of_tools,
)
from .renamed_nodes import Renamed, parse_renamed
from .together import ProcessesOption, launched, own_place, together

if TYPE_CHECKING:
    from ..config.resolve import Resolved
    from ..flow.task import Task
    from ..learning.peers import Peers
    from ..programs.find import Given
    from ..registry import Registry
    from ..runs.directory import RunDirectory


def train(
    context: typer.Context,
    task: ProgramTaskArgument = None,
    data: DataOption = None,
    split: SplitOption = None,
    limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Train on this many examples; 0 is all.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Shuffles the examples and seeds the adapters.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The run's name; by default TASK-001 and so on."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run: its name or path.",
            autocompletion=complete_run,
        ),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin a new run with what this one has learned.",
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OLD=NEW",
            help="With --from: a node of that run that has a new name now.",
        ),
    ] = None,
    or_resume: Annotated[
        bool,
        typer.Option("--or-resume", help="If the run of --name is there, go on with it."),
    ] = False,
    processes: ProcessesOption = None,
    model: ModelOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what a new run is going to take, from a few episodes; make none."
        ),
    ] = False,
    json: JsonOption = False,
    program: ProgramOption = None,
    reward: RewardOption = None,
    gold: GoldOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Train all nodes of a task's flow, online."""
    place = own_place()
    if dry_run and (resume is not None or or_resume or place.size > 1 or (processes or 1) > 1):
        raise UsageError(
            "--dry-run is for a new run, on one process: leave --resume, --or-resume, --processes"
            " and launchers out"
        )
    code = launched(place, processes, context.obj)
    if code is not None:
        return code
    if or_resume and name is None:
        raise UsageError("--or-resume goes on with the run of --name, which is not given")
    if resume is not None and (name is not None or from_ is not None):
        raise UsageError("--resume goes on with a run; --name and --from are for a new one")
    if resume is None and task is None and program is None and from_ is None:
        raise UsageError("say which task to train (see 'flowtune ls tasks'), or --resume a run")
    renamed = parse_renamed(rename or ())
    if renamed and from_ is None:
        raise UsageError("--rename says which node of a run is which now: it needs --from RUN")
    flags = {"training.limit": limit, "training.seed": seed, "model.name": model, "preset": preset}
    with together(place) as peers:
        from ..registry import load_registry

        arguments = _Arguments(
            load_registry(),
            data,
            split,
            json,
            config,
            set_ or (),
            given(program, reward, gold),
            peers,
            flags,
        )
        if resume is not None:
            return _resume(arguments, task, resume)
        begun = _Begun(name if or_resume else None, place.launch if place.restarts else "")
        return _begin(arguments, task, name, from_, renamed, begun, place.launch, dry_run=dry_run)


@dataclass(frozen=True)
class _Begun:
    """By what a command that begins a run knows one that it has begun before.

    Args:
        name: the run's, if it may be gone on with.
        launch: of the processes, if they were started again.
    """

    name: str | None
    launch: str

    def find(self, parent: Path) -> Path | None:
        """The run's directory, if there is one."""
        from ..runs.directory import RunDirectory

        if self.name is not None:
            path = parent / self.name
            return path if (path / "run.json").is_file() else None
        run = RunDirectory.of_launch(parent, self.launch)
        return None if run is None else run.path


@dataclass(frozen=True)
class _Arguments:
    """The arguments that new and resumed runs share."""

    registry: Registry
    data: Path | None
    split: str | None
    json: bool
    config: Path | None
    overrides: Sequence[str]
    program: Given
    peers: Peers
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Any]:
        """Where settings come from, as ``options.settings`` takes it."""
        return {"config": self.config, "overrides": self.overrides, "flags": self.flags}

    def found(
        self, task: str | None, run: RunDirectory | None, renamed: Renamed | None = None
    ) -> tuple[type[Task], _Arguments]:
        """The task that is meant, and the arguments with the settings that they make of it.

        A program's data is one of its settings, so that all later commands have it from the run.

        Args:
            run: the one that is gone on with.
            renamed: its nodes that have other names now.
        """
        from ..programs.task import ProgramTask

        found = find(
            self.registry,
            task,
            self.program,
            config=self.config,
            overrides=self.overrides,
            run=run,
            renamed=renamed,
        )
        flags, data = {**self.flags, **found.flags}, self.data
        if issubclass(found.task_class, ProgramTask) and data is not None:
            flags[f"tasks.{found.task_class.name}.data"] = place_text(data)
            data = None
        return found.task_class, replace(self, flags=flags, data=data)


def _begin(
    arguments: _Arguments,
    task_name: str | None,
    name: str | None,
    from_: str | None,
    renamed: Renamed,
    begun: _Begun,
    launch: str,
    *,
    dry_run: bool,
) -> int:
    from ..runs.directory import RunDirectory
    from .checkpoint_names import find_checkpoint
    from .examples import chosen_split, read_training_examples
    from .held_out import read_held_out
    from .run_overrides import RunOverrides
    from .stored_settings import describe, to_store
    from .training_run import TrainingRun

    given_arguments = arguments
    checkpoint = source = None
    if from_ is not None:
        source, checkpoint = find_checkpoint(
            arguments.registry, from_, arguments.config, arguments.overrides
        )
    task_class, arguments = arguments.found(task_name, source, renamed)
    if source is None:
        resolved = options.settings(arguments.registry, task_class, **arguments.sources)
    else:
        resolved = RunOverrides(
            arguments.registry, task_class, source, renamed=renamed, **arguments.sources
        ).continued()
    tell_origins(resolved)
    task = resolved.make_task()
    ready(task, resolved, source)
    warn_of_tools(task)
    parent = resolved.settings.run.directory
    peers = arguments.peers
    peers.patience = resolved.settings.training.rank_timeout
    before = peers.first(lambda: begun.find(parent))
    if before is not None:
        note(f"going on with run '{before.name}', which this command has begun before")
        return _resume(given_arguments, task_name, str(before))
    peers.first(lambda: RunDirectory.check_name(parent, name))
    split = chosen_split(task, arguments.split)
    examples = read_training_examples(task, arguments.data, split)
    described = describe(arguments.data, split, examples, resolved)
    evaluate = resolved.settings.training.evaluate
    held_out = read_held_out(task, evaluate, described, checkpoint)

    def create(resolved: Resolved) -> RunDirectory:
        """Only when everything else is there, so that no run is left which never began."""
        return RunDirectory.create(
            parent,
            name,
            task=task.name,
            model=resolved.settings.model.name,
            settings=to_store(
                resolved,
                arguments.config,
                checkpoint,
                {**described.stored, **held_out.stored},
                renamed,
            ),
            examples=described.digests,
            launch=launch,
        )

    training = TrainingRun(
        arguments.registry,
        resolved,
        task,
        examples,
        held_out.examples,
        checkpoint,
        arguments.json,
        peers,
        renamed,
    )
    return training.expect() if dry_run else training.begin(create)


def _resume(arguments: _Arguments, task_name: str | None, name: str) -> int:
    from ..runs.example_digests import write_digests
    from ..runs.store import check_version
    from .examples import read_training_examples
    from .held_out import check_held_out, read_held_out
    from .run_lock import locked
    from .run_overrides import RunOverrides, find_run
    from .stored_settings import check_unchanged, describe, to_store

    run = find_run(arguments.registry, name, arguments.config, arguments.overrides)
    peers = arguments.peers
    with locked(run, peers):
        check_version(run.store_path)  # before anything is changed
        task_class, arguments = arguments.found(task_name, run)
        settings = RunOverrides(arguments.registry, task_class, run, **arguments.sources)
        resolved, stored = settings.resumed(), settings.stored
        peers.patience = resolved.settings.training.rank_timeout
        training_now, training_then = resolved.settings.training, settings.old.settings.training
        grows = (training_now.limit, training_now.passes) != (
            training_then.limit,
            training_then.passes,
        )
        waits = training_now.evaluate.patience != training_then.evaluate.patience
        # Now that all settings are known to fit: this imports torch, which takes seconds.
        from .training_run import TrainingRun, report_finished

        if run.info.state == "finished" and not (grows or waits):
            return report_finished(run, json=arguments.json, peers=peers)

        tell_origins(resolved)
        task = resolved.make_task()
        ready(task, resolved, run)
        data = arguments.data or (stored["data"]["path"] and Path(stored["data"]["path"]))
        split = arguments.split or stored["data"]["split"]
        examples = read_training_examples(task, data, split)
        described = describe(data, split, examples, settings.old)
        check_unchanged(run, examples, described)
        if grows:
            described = describe(data, split, examples, resolved)
        held_out = read_held_out(task, training_now.evaluate, described)
        check_held_out(run, held_out)
        checkpoint = stored["from"] and Path(stored["from"])
        config = arguments.config or (stored["config"] and Path(stored["config"]))
        renamed = stored.get("renamed", {})
        data_stored = {**described.stored, **held_out.stored}
        now = to_store(resolved, config, checkpoint, data_stored, renamed)
        peers.each(lambda: None)  # all have read what is changed now
        if now != stored and peers.rank == 0:
            # First: settings.json says which digests are the run's.
            write_digests(run.examples_path, described.digests)
            run.change_settings(now)
        training = TrainingRun(
            arguments.registry,
            resolved,
            task,
            examples,
            held_out.examples,
            checkpoint,
            arguments.json,
            peers,
            renamed,
        )
        return training.resume(run, name)
