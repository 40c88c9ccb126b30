"""``flowtune predict``: plays examples greedily, and writes a prediction for each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import FlowtuneError, UsageError
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
from .phase import phase
from .programs import GoldOption, ProgramOption, ProgramTaskArgument, RewardOption, given

if TYPE_CHECKING:
    from ..flow.episode import Episode
    from ..flow.example import Example
    from ..flow.node import Exploration
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..runs.prediction_writer import PredictionWriter
    from ..training.session import Session
    from .player import Player

PlayedExample = tuple["Episode", list[dict[str, Any]]]
"""An episode, and its rollouts as a prediction line has them."""

_CHUNK = 64
"""Examples that are played before the engine's caches are cleared, which bounds its memory."""

_SECONDS_BETWEEN_LINES = 10.0


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
    from ..flow.task import Task
    from ..registry import load_registry
    from ..runs.output_path import is_stream
    from ..runs.prediction_writer import check_predictions_path
    from .examples import chosen_split, first_examples, note_left_out, read_examples
    from .player import load_player
    from .postprocessors import explorations, selected_names, selected_postprocessors
    from .together import check_alone

    check_alone("predict")
    if out is not None:
        check_predictions_path(out, overwrite=overwrite)
        if json and stdout.is_own(out):
            raise UsageError(
                "--json prints what was done where --out writes the predictions: leave one out"
            )
    of_program = given(program, reward, gold)
    registry, flags = load_registry(), selected_names(context)
    if task is None and run is None and program is None and flags:
        meant = newest_for(registry, flags, data=data, split=split, config=config, overrides=set_)
        run, data, split = meant.run, meant.data, meant.split
        of_data = f" of {data.absolute()}" if data is not None else ""
        note(f"predicting with the newest run, {run}, on split '{split}'{of_data}")
    player = load_player(registry, task, run, config, set_, preset, of_program, model=model)
    split_name = chosen_split(player.task, split)
    if out is None:
        name = player.label if player.checkpoint else f"{player.task.name}-{player.label}"
        out = Path(f"{name}-{split_name}.jsonl")
        check_predictions_path(out, overwrite=overwrite)
    processors = selected_postprocessors(context, player.registry, player.task)
    strategies = explorations(processors, player.task, player.registry)
    if scores and not strategies and type(player.task).scores is Task.scores:
        note(f"task '{player.task.name}' has no scores: --scores adds nothing")
    examples = first_examples(read_examples(player.task, data, split), limit)
    note_left_out(player.task)
    session = player.set_up()
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
            made_by=player.made_by,
            explorations=strategies,
            processors=processors,
            scores=scores,
        )
    except KeyboardInterrupt:
        return 130
    except ExamplesFailed as error:
        if json:
            print_json({**summary, "out": None, "lines": 0, "failed": error.ids})
        raise
    note(f"wrote {len(examples)} predictions to {out if is_stream(out) else out.absolute()}")
    if json:
        print_json(summary)
    if is_stream(out):
        return 0
    command = _evaluate_command(player, out, data=data, split=split, limit=limit, config=config)
    suggest("Next, try", [command])
    return 0


class ExamplesFailed(FlowtuneError):
    """The flow failed for some examples, so that there is no complete file.

    Args:
        ids: those of the examples.
    """

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


def write_predictions(
    session: Session,
    examples: Sequence[Example],
    out: Path,
    *,
    made_by: str,
    explorations: Mapping[str, Exploration],
    processors: Sequence[PostProcessor],
    scores: bool,
) -> None:
    """Play the examples and write their predictions, resuming from a partial file.

    Args:
        made_by: identifies predictions that may be mixed, such as run and checkpoint.
        explorations: the strategies of the nodes whose alternatives are also played, by node name.
        scores: write what ``Task.scores`` adds, and the rollouts.

    Raises:
        ExamplesFailed: the flow failed for an example.
        FlowtuneError: the file cannot be written.
        KeyboardInterrupt: the user interrupted; a note says how to resume.
    """
    from ..runs.example_digests import example_digests
    from ..runs.prediction_writer import PredictionWriter

    # The rollouts depend on these nodes, and on no other option of the post-processors.
    made_by = ", with alternatives of ".join([made_by, *explorations])
    with PredictionWriter(out, example_digests(examples, note), made_by) as file:
        if file.done:
            note(f"resuming from {file.partial}, which has {file.done} of {len(examples)} lines")
        try:
            _predict(session, examples, explorations, file)
        except KeyboardInterrupt:
            note(f"interrupted. {file.how_to_go_on}")
            raise
        with phase("writing the predictions", silent=True):
            file.finish(lambda records: _lines(records, session.task, examples, processors, scores))


def _predict(
    session: Session,
    examples: Sequence[Example],
    explorations: Mapping[str, Exploration],
    file: PredictionWriter,
) -> None:
    """Play the examples that are not yet in the file.

    Raises:
        ExamplesFailed: the flow failed for an example; its line and all later ones are missing.
    """
    from ..flow.left_out import listed
    from .progress import progress

    failed: dict[int, Episode] = {}
    done, last_line = file.done, time.monotonic()
    with progress(done, len(examples), lambda: session.tally.calls) as display:
        for position, (episode, rollouts) in _play(
            session, examples, explorations, file.done, failed
        ):
            if episode.failure is not None:
                failed[position] = episode
            else:
                example = examples[position]
                record = _record(session.task, example, episode, rollouts, explorations)
                file.write(position, record)
            done += 1
            now = time.monotonic()
            line = now - last_line > _SECONDS_BETWEEN_LINES or done == len(examples)
            last_line = now if line else last_line
            display.show(done, f"{len(failed)} failed" if failed else "", line=line)
    if failed:
        first = failed[min(failed)]
        assert first.failure is not None
        ids = [episode.example.id for _, episode in sorted(failed.items())]
        raise ExamplesFailed(
            f"the flow failed for {len(failed)} of {done} examples: {listed(ids)}. The first one"
            f" that failed is example '{first.example.id}':\n{first.failure.traceback}"
            f"{file.how_to_go_on}",
            ids,
        )


def _play(
    session: Session,
    examples: Sequence[Example],
    explorations: Mapping[str, Exploration],
    begin: int,
    failed: Mapping[int, Episode],
) -> Iterator[tuple[int, PlayedExample]]:
    """Play the examples from ``begin`` on; after a failure, no further examples are started."""
    from ..runtime.play import play_with_rollouts

    seed = session.settings.training.seed
    for start in range(begin, len(examples), _CHUNK):
        session.engine.forget()
        chunk = examples[start : start + _CHUNK]

        def until_failure(chunk: Sequence[Example] = chunk) -> Iterator[Example]:
            for example in chunk:
                if failed:
                    return
                yield example

        for position, result in session.scheduler().stream(
            play_with_rollouts(session.task, example, explorations=explorations, seed=seed)
            for example in until_failure()
        ):
            yield start + position, result
        if failed:
            return


def _record(
    task: Task,
    example: Example,
    episode: Episode,
    rollouts: list[dict[str, Any]],
    explorations: Mapping[str, Exploration],
) -> dict[str, Any]:
    """Everything that the line of an example may need, whatever options are set in the end."""
    from ..flow.postprocessing import EXAMPLE_ID, ROLLOUTS

    scores = dict(task.scores(example, episode.result))
    if task.prediction_id(example) != example.id:
        scores[EXAMPLE_ID] = example.id
    if explorations:
        scores[ROLLOUTS] = rollouts
    return {"prediction": task.prediction(example, episode.result), "scores": scores}


def _lines(
    records: Sequence[Mapping[str, Any]],
    task: Task,
    examples: Sequence[Example],
    processors: Sequence[PostProcessor],
    scores: bool,
) -> Iterator[Mapping[str, Any]]:
    """The lines of the file: post-processed, with the scores only if ``scores`` is set."""
    from ..flow.postprocessing import post_process
    from .examples import note_failed_rollouts

    lines = [{**record["prediction"], **record["scores"]} for record in records]
    note_failed_rollouts(lines)
    processed = post_process(processors, task, examples, lines, note)
    for line, record in zip(processed, records, strict=True):
        dropped = () if scores else record["scores"]
        yield {name: value for name, value in line.items() if name not in dropped}


def _evaluate_command(player: Player, out: Path, **arguments: Any) -> str:
    """The command that evaluates the predictions, with the task settings that were used."""
    from ..config.template import toml_value

    task, config = player.task.name, arguments["config"]
    command = ["flowtune", "evaluate", task, str(out)]
    for option, value in arguments.items():
        if value is not None:
            command += [f"--{option}", str(value)]
    plain = options.settings(player.registry, type(player.task), config=config).settings
    for key, value in player.resolved.settings.tasks[task].items():
        if key != "nodes" and value != plain.tasks[task].get(key):
            command += ["--set", f"tasks.{task}.{key}={toml_value(value)}"]
    return shlex.join(command)
