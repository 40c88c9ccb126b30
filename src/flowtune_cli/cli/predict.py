"""``flowtune predict``: plays examples greedily, and writes a line for each."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import FlowtuneError, UsageError
from . import options
from .options import (
    ConfigOption,
    DataOption,
    OutOption,
    OverwriteOption,
    RunOption,
    SetOption,
    SplitOption,
    TaskArgument,
)
from .output import note

if TYPE_CHECKING:
    from ..flow.episode import Episode
    from ..flow.example import Example
    from ..flow.node import Exploration
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..runs.prediction_writer import PredictionFile
    from ..training.session import Session
    from .trained import Player

Played = tuple["Episode", list[dict[str, Any]]]
"""An episode, and its rollouts as a line has them."""

_CHUNK = 64
"""Examples played before the engine forgets what it answered, which bounds its memory."""

_SECONDS_BETWEEN_LINES = 10.0


def predict(
    context: typer.Context,
    task: TaskArgument,
    out: OutOption,
    data: DataOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only this many of the first examples.")
    ] = None,
    scores: Annotated[
        bool,
        typer.Option("--scores", help="Add what post-processors need, for 'flowtune postprocess'."),
    ] = False,
    overwrite: OverwriteOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play the examples of a split, and write a prediction for each, in their order.

    Until all are there, they are in FILE.partial, and the same command goes on with that.
    Plugins add post-processors to the options: 'flowtune ls postprocessors' lists them.
    """
    from ..flow.task import Task
    from ..registry import load_registry
    from .examples import first_examples, read_examples
    from .postprocessors import asked_for, explorations
    from .trained import player

    check_out(out, overwrite)
    chosen = player(load_registry(), task, run, config, set_)
    processors = asked_for(context, chosen.registry, chosen.task)
    explored = explorations(processors, chosen.task, chosen.registry)
    if scores and not explored and type(chosen.task).scores is Task.scores:
        note(f"task '{task}' has no scores: --scores adds nothing")
    examples = first_examples(read_examples(chosen.task, data, split), limit)
    session = chosen.set_up()
    try:
        write_predictions(
            session,
            examples,
            out,
            made_by=chosen.made_by,
            explorations=explored,
            processors=processors,
            scores=scores,
        )
    except KeyboardInterrupt:
        return 130
    note(f"{len(examples)} predictions are in {out}")
    command = _evaluate(chosen, out, data=data, split=split, limit=limit, config=config)
    typer.echo(f"Next, try:\n  {command}", err=True)
    return 0


def check_out(out: Path, overwrite: bool) -> None:
    """Find out now, and not after loading a model, that the file cannot be written."""
    if out.is_dir() or not out.parent.is_dir():
        what = "is a directory" if out.is_dir() else "is in a directory that does not exist"
        raise UsageError(f"--out {out} {what}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; --overwrite replaces it")


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
    """Play the examples, and write their predictions; what was played before is gone on with.

    Args:
        made_by: tells predictions apart that must not be mixed.
        explorations: the strategies of the nodes whose alternatives are played, too, by node name.
        scores: write what ``Task.scores`` adds, and the rollouts.

    Raises:
        FlowtuneError: the flow failed for an example, or the file cannot be written.
        KeyboardInterrupt: somebody interrupted it; it was said how to go on.
    """
    from ..runs.prediction_writer import PredictionFile

    # What is played depends on these nodes, and on no other option of the post-processors.
    made_by = ", with alternatives of ".join([made_by, *explorations])
    with PredictionFile(out, [example.id for example in examples], made_by) as file:
        if file.done:
            note(f"going on with {file.partial}, which has {file.done} of {len(examples)} lines")
        try:
            _predict(session, examples, explorations, file)
        except KeyboardInterrupt:
            note(
                f"interrupted. {file.partial} has {file.done} of {len(examples)} lines; the same"
                " command goes on with it."
            )
            raise
        file.finish(lambda made: _lines(made, session.task, examples, processors, scores))


def _predict(
    session: Session,
    examples: Sequence[Example],
    explorations: Mapping[str, Exploration],
    file: PredictionFile,
) -> None:
    """Play what is not yet in the file.

    Raises:
        FlowtuneError: the flow failed for an example, whose line and all after it are missing.
    """
    from .progress import progress

    failed: dict[int, Episode] = {}
    done, spoken = file.done, time.monotonic()
    with progress(done, len(examples)) as shown:
        for position, (episode, rollouts) in _play(
            session, examples, explorations, file.done, failed
        ):
            if episode.failure is not None:
                failed[position] = episode
            else:
                example = examples[position]
                file.write(position, _made(session.task, example, episode, rollouts, explorations))
            done += 1
            now = time.monotonic()
            line = now - spoken > _SECONDS_BETWEEN_LINES or done == len(examples)
            spoken = now if line else spoken
            shown.show(done, f"{len(failed)} failed" if failed else "", line=line)
    if failed:
        first = failed[min(failed)]
        assert first.failure is not None
        raise FlowtuneError(
            f"the flow failed for {len(failed)} of {done} examples, and lines are written in their"
            f" order: {file.partial} has those before example '{first.example.id}', for which it"
            f" failed so:\n{first.failure.traceback}Once that is mended, the same command goes on."
        )


def _play(
    session: Session,
    examples: Sequence[Example],
    explorations: Mapping[str, Exploration],
    begin: int,
    failed: Mapping[int, Episode],
) -> Iterator[tuple[int, Played]]:
    """Play the examples from ``begin`` on; after a failure, those alone that were begun."""
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

        for position, played in session.scheduler().stream(
            play_with_rollouts(session.task, example, explorations=explorations, seed=seed)
            for example in until_failure()
        ):
            yield start + position, played
        if failed:
            return


def _made(
    task: Task,
    example: Example,
    episode: Episode,
    rollouts: list[dict[str, Any]],
    explorations: Mapping[str, Exploration],
) -> dict[str, Any]:
    """All that a line may come of, whatever it is to have in the end."""
    from ..flow.postprocessing import EXAMPLE_ID, ROLLOUTS

    scores = dict(task.scores(example, episode.result))
    if task.prediction_id(example) != example.id:
        scores[EXAMPLE_ID] = example.id
    if explorations:
        scores[ROLLOUTS] = rollouts
    return {"prediction": task.prediction(example, episode.result), "scores": scores}


def _lines(
    made: Sequence[Mapping[str, Any]],
    task: Task,
    examples: Sequence[Example],
    processors: Sequence[PostProcessor],
    scores: bool,
) -> Iterator[Mapping[str, Any]]:
    """The lines of the file: post-processed, and with the scores only if they are wanted."""
    from ..flow.postprocessing import post_process

    whole = [{**each["prediction"], **each["scores"]} for each in made]
    done = post_process(processors, task, examples, whole, note)
    for line, each in zip(done, made, strict=True):
        dropped = () if scores else each["scores"]
        yield {name: value for name, value in line.items() if name not in dropped}


def _evaluate(player: Player, out: Path, **given: Any) -> str:
    """The command that evaluates the predictions, with the task set as it was played."""
    from ..config.template import toml_value

    task, config = player.task.name, given["config"]
    command = ["flowtune", "evaluate", task, str(out)]
    for option, value in given.items():
        if value is not None:
            command += [f"--{option}", str(value)]
    plain = options.settings(player.registry, type(player.task), config=config).settings
    for key, value in player.resolved.settings.tasks[task].items():
        if key != "nodes" and value != plain.tasks[task].get(key):
            command += ["--set", f"tasks.{task}.{key}={toml_value(value)}"]
    return shlex.join(command)
