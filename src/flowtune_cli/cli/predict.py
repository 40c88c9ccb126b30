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
from .options import ConfigOption, DataOption, RunOption, SetOption, SplitOption, TaskArgument
from .output import note

if TYPE_CHECKING:
    from ..flow.episode import Episode
    from ..flow.example import Example
    from ..runs.predictions import PredictionFile
    from ..training.bench import Bench
    from .trained import Player

_CHUNK = 64
"""Examples played before the engine forgets what it answered, which bounds its memory."""

_SECONDS_BETWEEN_LINES = 10.0


def predict(
    task: TaskArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the predictions are written.")
    ],
    data: DataOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only this many of the first examples.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FILE if it is there.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play the examples of a split, and write a prediction for each, in their order.

    Until all are there, they are in FILE.partial, and the same command goes on with that.
    """
    from ..registry import load_registry
    from ..runs.predictions import PredictionFile
    from .examples import first_examples, read_examples
    from .trained import player

    _check_out(out, overwrite)
    chosen = player(load_registry(), task, run, config, set_)
    examples = first_examples(read_examples(chosen.task, data, split), limit)
    bench = chosen.set_up()
    with PredictionFile(out, [e.id for e in examples], chosen.made_by) as file:
        if file.done:
            note(f"going on with {file.partial}, which has {file.done} of {len(examples)} lines")
        try:
            _predict(bench, examples, file)
        except KeyboardInterrupt:
            note(
                f"interrupted. {file.partial} has {file.done} of {len(examples)} lines; the same"
                " command goes on with it."
            )
            return 130
        file.finish()
    note(f"{len(examples)} predictions are in {out}")
    command = _evaluate(chosen, out, data=data, split=split, limit=limit, config=config)
    typer.echo(f"Next, try:\n  {command}", err=True)
    return 0


def _check_out(out: Path, overwrite: bool) -> None:
    """Find out now, and not after loading a model, that the file cannot be written."""
    if out.is_dir() or not out.parent.is_dir():
        what = "is a directory" if out.is_dir() else "is in a directory that does not exist"
        raise UsageError(f"--out {out} {what}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; --overwrite replaces it")


def _predict(bench: Bench, examples: Sequence[Example], file: PredictionFile) -> None:
    """Play what is not yet in the file.

    Raises:
        FlowtuneError: the flow failed for an example, whose line and all after it are missing.
    """
    from .progress import progress

    failed: dict[int, Episode] = {}
    done, spoken = file.done, time.monotonic()
    with progress(done, len(examples)) as shown:
        for position, episode in _play(bench, examples, file.done, failed):
            if episode.failure is not None:
                failed[position] = episode
            else:
                file.write(position, bench.task.prediction(examples[position], episode.result))
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
    bench: Bench, examples: Sequence[Example], begin: int, failed: Mapping[int, Episode]
) -> Iterator[tuple[int, Episode]]:
    """Play the examples from ``begin`` on; after a failure, those alone that were begun."""
    for start in range(begin, len(examples), _CHUNK):
        bench.engine.forget()
        chunk = examples[start : start + _CHUNK]

        def until_failure(chunk: Sequence[Example] = chunk) -> Iterator[Example]:
            for example in chunk:
                if failed:
                    return
                yield example

        for position, episode in bench.play(until_failure()):
            yield start + position, episode
        if failed:
            return


def _evaluate(player: Player, out: Path, **given: Any) -> str:
    """The command that evaluates the predictions, with the task set as it was played."""
    from ..config_template import toml_value

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
