"""``flowtune predict``: plays examples greedily, and writes a prediction for each."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import UsageError
from . import options, stdout
from .newest_run import newest_for
from .options import (
    OUT,
    ConfigOption,
    DataOption,
    JsonOption,
    ModelOption,
    OverwriteOption,
    PresetOption,
    RunOption,
    SetOption,
    SplitOption,
)
from .output import note, print_json, suggest
from .programs import GoldOption, ProgramOption, ProgramTaskArgument, RewardOption, given
from .together import ProcessesOption, launched, own_place, together

if TYPE_CHECKING:
    from ..learning.peers import Peers
    from ..programs.find import Given
    from .player import Player


def predict(
    context: typer.Context,
    task: ProgramTaskArgument = None,
    out: Annotated[Path | None, OUT] = None,
    data: DataOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N examples.")
    ] = None,
    model: ModelOption = None,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Add what 'flowtune postprocess' needs."),
    ] = False,
    processes: ProcessesOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    program: ProgramOption = None,
    reward: RewardOption = None,
    gold: GoldOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play the examples of a split greedily, and write a prediction for each.

    Without --out, these go to RUN@EPISODES-SPLIT.jsonl, here. Until that is complete, it is
    FILE.partial, from which the same command resumes. Plugins add post-processors as options, see
    'flowtune ls postprocessors': with one of these, neither task nor run need be said, and the
    newest run is meant. --json prints what was done, not the predictions.
    """
    place = own_place()
    code = launched(place, processes, context.obj)
    if code is not None:
        return code
    with together(place) as peers:
        return _predict(
            context,
            peers,
            task=task,
            out=out,
            data=data,
            split=split,
            run=run,
            limit=limit,
            model=model,
            scores=scores,
            overwrite=overwrite,
            json=json,
            program=given(program, reward, gold),
            preset=preset,
            config=config,
            overrides=set_,
        )


def _predict(
    context: typer.Context,
    peers: Peers,
    *,
    task: str | None,
    out: Path | None,
    data: Path | None,
    split: str | None,
    run: str | None,
    limit: int | None,
    model: str | None,
    scores: bool,
    overwrite: bool,
    json: bool,
    program: Given,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str] | None,
) -> int:
    """What one of the processes does that predict together; returns the exit code."""
    from ..flow.task import Task
    from ..learning.peers import Stop
    from ..registry import load_registry
    from ..runs.output_path import is_stream
    from ..runs.prediction_writer import check_predictions_path
    from .alike import check_alike
    from .examples import chosen_split, first_examples, note_left_out, read_examples
    from .learned_from import tell_trained_on
    from .player import load_player
    from .postprocessors import explorations, selected_names, selected_postprocessors
    from .predicting import ExamplesFailed, write_predictions

    def check_out(path: Path) -> None:
        peers.first(lambda: check_predictions_path(path, overwrite=overwrite))

    if out is not None:
        check_out(out)
        if json and stdout.is_own(out):
            raise UsageError(
                "--json prints what was done where --out writes the predictions: leave one out"
            )
    registry, flags = load_registry(), selected_names(context)
    if task is None and run is None and program.program is None and flags:
        chosen = partial(newest_for, data=data, split=split, config=config, overrides=overrides)
        meant = peers.first(lambda: chosen(registry, flags))
        run, data, split = meant.run, meant.data, meant.split
        of_data = f" of {data.absolute()}" if data is not None else ""
        note(f"predicting with the newest run, {run}, on split '{split}'{of_data}")
    player = load_player(
        registry, task, run, config, overrides, preset, program, model=model, peers=peers
    )
    settings = player.resolved.settings
    peers.patience = settings.training.rank_timeout
    split_name = chosen_split(player.task, split)
    if out is None:
        name = player.label if player.checkpoint else f"{player.task.name}-{player.label}"
        out = Path(f"{name}-{split_name}.jsonl")
        check_out(out)
    processors = selected_postprocessors(context, player.registry, player.task)
    strategies = explorations(processors, player.task, player.registry)
    if scores and not strategies and type(player.task).scores is Task.scores:
        note(f"task '{player.task.name}' has no scores: --scores adds nothing")
    examples = first_examples(read_examples(player.task, data, split), limit)
    note_left_out(player.task)
    check_alike(peers, settings, examples)
    if player.checkpoint is not None:
        tell_trained_on(player.label, player.checkpoint, examples)
    session = player.set_up(peers)
    summary: dict[str, Any] = {
        "task": player.task.name,
        "run": player.checkpoint and player.checkpoint.parent.parent.name,
        "checkpoint": player.checkpoint and int(player.checkpoint.name),
        "played_by": player.made_by,
        "split": split_name,
        "out": out.absolute(),
        "examples": len(examples),
        "lines": len(examples),
        "failed": [],
    }
    try:
        write_predictions(
            session,
            examples,
            out,
            made_by=f"{player.made_by}, {session.settings.model.dtype}",  # "auto" may be any
            explorations=strategies,
            processors=processors,
            scores=scores,
            files=_program_files(player),
            peers=peers,
        )
    except Stop:
        return 130
    except ExamplesFailed as error:
        if json and peers.rank == 0:
            print_json({**summary, "out": None, "lines": 0, "failed": error.ids})
        raise
    if peers.rank:
        return 0
    note(f"wrote {len(examples)} predictions to {out if is_stream(out) else out.absolute()}")
    if json:
        print_json(summary)
    if is_stream(out):
        return 0
    command = _evaluate_command(
        player, out, overrides, run=run, data=data, split=split, limit=limit, config=config
    )
    suggest("Next, try", [command])
    return 0


def _program_files(player: Player) -> dict[str, str]:
    """Digests of the files that a program is."""
    from ..programs.files import file_digests

    files = file_digests(player.resolved.settings.tasks.get(player.task.name, {}))
    return {n: digest for n, digest in files.items() if n.startswith(("function", "program"))}


def _evaluate_command(
    player: Player, out: Path, overrides: Sequence[str] | None, **arguments: Any
) -> str:
    """The command that evaluates the predictions, with the task settings that were used."""
    from ..config.template import toml_value

    task, config = player.task.name, arguments["config"]
    command = ["flowtune", "evaluate", *([] if arguments["run"] else [task]), str(out)]
    for option, value in arguments.items():
        if value is not None:
            command += [f"--{option}", str(value)]
    if arguments["run"]:  # it has the settings, but for those that are others now
        changed = [each for each in overrides or () if each.startswith(f"tasks.{task}.")]
        return shlex.join([*command, *(word for each in changed for word in ("--set", each))])
    plain = options.settings(player.registry, type(player.task), config=config).settings
    for key, value in player.resolved.settings.tasks[task].items():
        if key != "nodes" and value != plain.tasks[task].get(key):
            command += ["--set", f"tasks.{task}.{key}={toml_value(value)}"]
    return shlex.join(command)
