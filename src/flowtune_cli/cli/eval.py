"""``flowtune eval``: plays runs on the same examples, and says which is better, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..flow.errors import FlowtuneError
from .completion import complete_checkpoint, complete_split
from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    ModelOption,
    PresetOption,
    SetOption,
)
from .output import note, print_json, print_rows
from .phase import phase
from .programs import ProgramTaskArgument
from .together import ProcessesOption, launched, own_place, together

if TYPE_CHECKING:
    from ..flow.example import Example
    from ..flow.task import Task
    from ..learning.peers import Peers
    from ..training.session import Session
    from .contestants import Contestant, Played
    from .paired_bootstrap import Paired, Wins


def eval(
    context: typer.Context,
    task: ProgramTaskArgument = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="A run to play: RUN, RUN@best or RUN@EPISODES; may be repeated.",
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Also the untrained flow; the others are compared to it."),
    ] = False,
    data: DataOption = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="The split; by default the task's second.",
            autocompletion=complete_split,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N examples.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write each flow's predictions there."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write to DIR though it is not empty.")
    ] = False,
    processes: ProcessesOption = None,
    model: ModelOption = None,
    json: JsonOption = False,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play runs greedily on the same examples, and compare their figures.

    'flowtune evaluate' is for prediction files, this for runs. Differences and wins are those to
    the first flow. Intervals are of the paired bootstrap. Where the flow reports no reward, the
    evaluator of its nodes says which flow ended better.
    """
    place = own_place()
    code = launched(place, processes, context.obj)
    if code is not None:
        return code
    with together(place) as peers:
        from ..registry import load_registry
        from ..runs.output_path import check_output
        from .contestants import contestants

        registry = load_registry()
        if out is not None:
            peers.first(lambda: check_output(out, overwrite=overwrite, directory=True))
        found = contestants(
            registry,
            task,
            run or [],
            baseline=baseline,
            config=config,
            overrides=set_,
            preset=preset,
            model=model,
            peers=peers,
        )
        return _compare(found, peers, data=data, split=split, limit=limit, out=out, json=json)


def _compare(
    found: Sequence[Contestant],
    peers: Peers,
    *,
    data: Path | None,
    split: str | None,
    limit: int | None,
    out: Path | None,
    json: bool,
) -> int:
    """Play the flows and print how they compare; returns the exit code."""
    from ..learning.peers import Stop
    from .alike import check_alike
    from .comparable import check_comparable
    from .eval_rows import COLUMNS, judged_rows, notes_on, reward_rows, task_rows
    from .examples import first_examples, note_left_out, read_examples

    first = found[0].player.task
    split = split or first.splits[min(1, len(first.splits) - 1)]
    examples = first_examples(read_examples(first, data, split), limit)
    note_left_out(first)
    for each in found:
        check_alike(peers, each.player.resolved.settings, examples)
    peers.patience = found[0].player.resolved.settings.training.rank_timeout
    check_comparable(found, examples, data, split, limit)
    _warn_of_known(found, examples, data, split)
    own = _has_own_figures(first, examples)
    try:
        all_played, task_figures, gains = _play_all(found, examples, out, own, peers)
    except Stop:
        return 130
    if peers.rank:
        return 0
    _check_played(found, examples, all_played)
    figures = _compared(all_played, len(examples))
    for text in notes_on(all_played, figures):
        note(text)
    if gains and len(found) == 1:
        note("no evaluator was asked, as these compare flows: name another one, or --baseline")
    if json:
        print_json(_as_json(found, examples, split, all_played, figures, task_figures, gains))
        return 0
    count = len(examples)
    rows = [
        *reward_rows(found, figures, count),
        *task_rows(found, all_played, task_figures, figures, count),
        *judged_rows(found, gains),
    ]
    if rows:
        print_rows(COLUMNS, rows)
    elif not gains:
        note("there are no figures: the flow reports no reward, and no node has an evaluator")
    return 0


def _has_own_figures(task: Task, examples: Sequence[Example]) -> bool:
    """Whether the task's own evaluation can be asked; a note says which examples have no labels."""
    from ..flow.left_out import listed
    from ..flow.task import Task

    own = type(task).evaluate is not Task.evaluate
    unlabelled = [example.id for example in examples if example.gold is None]
    if unlabelled:
        without = "; so there are no figures of the task's own evaluation" if own else ""
        note(
            f"{len(unlabelled)} of {len(examples)} examples have no labels:"
            f" {listed(unlabelled)}{without}"
        )
    return own and not unlabelled


def _check_played(
    found: Sequence[Contestant], examples: Sequence[Example], all_played: Sequence[Played]
) -> None:
    """Check that some flow came to its end for some example.

    Raises:
        FlowtuneError: none did; says how the first one failed.
    """
    if any(len(played.failures) < len(examples) for played in all_played):
        return
    position = min(all_played[0].failures)
    raise FlowtuneError(
        f"every flow failed for every example, so there are no figures. This is how"
        f" '{found[0].name}' failed for '{examples[position].id}':\n"
        f"{all_played[0].failures[position].traceback}"
    )


def _play_all(
    found: Sequence[Contestant],
    examples: Sequence[Example],
    out: Path | None,
    own: bool,
    peers: Peers,
) -> tuple[list[Played], list[dict[str, Any]], dict[str, list[Wins | None]]]:
    """What each flow did, the figures of the task's own evaluation, and the evaluators' wins.

    Figures and wins are found on rank 0 alone.

    Raises:
        Stop: some process was asked to stop.
    """
    from ..learning.peers import Stop
    from .contestants import play_examples, sessions
    from .interrupts import StopRequest
    from .progress import progress

    all_played: list[Played] = []
    task_figures: list[dict[str, Any]] = []
    evaluators = _evaluators(found[0])
    session: Session | None = None
    seed = found[0].player.resolved.settings.training.seed
    count = len(examples)
    display = progress(0, len(found) * count, lambda: 0 if session is None else session.tally.calls)

    def check() -> None:
        if stop.requested:
            raise Stop
        peers.check()

    with display, StopRequest(display.stopping) as stop:
        peers.stopping = lambda: stop.requested
        for each, session in sessions(found, peers):

            def show(played: Played, each: Contestant = each) -> None:
                # The others are about as far: their shares are as large.
                done = min(count, (len(played.rewards) + len(played.failures)) * peers.size)
                display.show(len(all_played) * count + done, _progress_text(each, played))

            played = play_examples(
                session,
                examples,
                results=bool(evaluators),
                predictions=own or out is not None,
                seed=seed,
                check=check,
                on_played=show,
                peers=peers,
            )
            all_played.append(played)
            display.show(len(all_played) * count, _progress_text(each, played), line=True)
            if peers.rank == 0:
                _note_failures(each, examples, played)
                if out is not None:
                    _write(out / each.file_name, played)
                task_figures.append(_evaluated(each, examples, played) if own else {})
            played.predictions.clear()
            if len(all_played) < len(found):
                session = None  # the next flow may have another model
        gains: dict[str, list[Wins | None]] = {}
        if peers.rank == 0 and not any(
            rewards for played in all_played for rewards in played.rewards.values()
        ):
            assert session is not None
            _note_judge(found, evaluators)
            gains = _judged(session, evaluators, examples, all_played, check)
    return all_played, task_figures, gains


def _note_judge(found: Sequence[Contestant], evaluators: Mapping[str, Any]) -> None:
    """Say whose base model evaluators ask, where there are several."""
    from .comparable import base_models

    models = base_models(found)
    if evaluators and len(models) > 1:
        last = found[-1].player.resolved.settings.model.name
        note(
            f"the flows have {len(models)} base models. An evaluator that asks the base model asks"
            f" that of '{found[-1].name}', {last}, which may prefer its own outputs"
        )


def _judged(
    session: Session,
    evaluators: Mapping[str, Any],
    examples: Sequence[Example],
    all_played: Sequence[Played],
    check: Callable[[], None],
) -> dict[str, list[Wins | None]]:
    """By each evaluator, how often each flow but the first ended better than that one."""
    from ..training.judged import judge
    from .paired_bootstrap import Wins

    gains: dict[str, list[Wins | None]] = {}
    first, *others = all_played
    for name, evaluator in evaluators.items():
        gains[name] = [None]
        for other in others:
            with phase(f"comparing by evaluator '{name}'", silent=True):
                judged, failures = judge(
                    session, evaluator, examples, first.results, other.results, check
                )
            gains[name].append(Wins.of([judged.get(n) for n in range(len(examples))]))
            if failures:
                note(f"evaluator '{name}' failed for {len(failures)} examples: {failures[0].error}")
    return gains


def _evaluators(contestant: Contestant) -> dict[str, Any]:
    """The evaluators of the task's nodes, by name; one that several nodes share once."""
    from ..training.judged import evaluators_by_name

    player = contestant.player
    return evaluators_by_name(
        (node.name, player.registry.make_evaluator(node.evaluator))
        for node in player.task.nodes
        if node.evaluator is not None
    )


def _compared(all_played: Sequence[Played], count: int) -> dict[str, list[Paired]]:
    """Each reward, compared over the flows."""
    from .paired_bootstrap import paired

    names = dict.fromkeys(
        name
        for played in all_played
        for _, rewards in sorted(played.rewards.items())
        for name in rewards
    )
    return {
        name: paired(
            [
                [played.rewards.get(position, {}).get(name) for position in range(count)]
                for played in all_played
            ]
        )
        for name in names
    }


def _evaluated(each: Contestant, examples: Sequence[Example], played: Played) -> dict[str, Any]:
    """The task's own figures of the examples whose flow came to its end: value and interval."""
    from ..flow.figures import each_figure
    from ..flow.left_out import LeftOut

    positions = sorted(played.predictions)
    if not positions:
        return {}
    task = each.player.task
    task.left_out = LeftOut()
    chosen = [examples[position] for position in positions]
    try:
        with phase("evaluating", silent=True):
            figures = task.evaluate(chosen, [played.predictions[n] for n in positions])
    except FlowtuneError as error:
        note(f"without the task's own figures of '{each.name}': {error}")
        return {}
    for text in task.left_out.texts():
        note(f"the task's own figures of '{each.name}': {text}")
    return {name: (value, interval) for name, value, interval in each_figure(figures)}


def _write(path: Path, played: Played) -> None:
    from ..runs.prediction_writer import write_lines

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowtuneError(
            f"cannot make {path.parent.absolute()}: {error.strerror or error}"
        ) from error
    write_lines(path, (line for _, line in sorted(played.predictions.items())))
    note(f"wrote {len(played.predictions)} predictions to {path.absolute()}")


def _warn_of_known(
    found: Sequence[Contestant], examples: Sequence[Example], data: Path | None, split: str
) -> None:
    """Say so if examples are among those that a run has learned from, or was chosen by."""
    from .learned_from import tell_chosen_by, tell_trained_on

    for each in found:
        if each.player.checkpoint is not None:
            tell_trained_on(each.name, each.player.checkpoint, examples)
            tell_chosen_by(each.name, each.player.checkpoint, examples, data, split)


def _note_failures(each: Contestant, examples: Sequence[Example], played: Played) -> None:
    if played.failures:
        position = min(played.failures)
        note(
            f"'{each.name}' failed for {len(played.failures)} of {len(examples)} examples, which no"
            f" figure counts. The first one is '{examples[position].id}':"
            f" {played.failures[position].error}"
        )


def _progress_text(each: Contestant, played: Played) -> str:
    failed = f", {len(played.failures)} failed" if played.failures else ""
    return f"{each.name}{failed}"


def _as_json(
    found: Sequence[Contestant],
    examples: Sequence[Example],
    split: str,
    all_played: Sequence[Played],
    figures: Mapping[str, list[Paired]],
    task_figures: Sequence[Mapping[str, Any]],
    gains: Mapping[str, Sequence[Wins | None]],
) -> dict[str, Any]:
    flows = []
    for number, (each, played) in enumerate(zip(found, all_played, strict=True)):
        checkpoint = each.player.checkpoint
        flows.append(
            {
                "flow": each.name,
                "checkpoint": checkpoint,
                "failed": len(played.failures),
                "figures": {name: asdict(of_flows[number]) for name, of_flows in figures.items()},
                "task_figures": {
                    name: {"value": value, "interval": interval}
                    for name, (value, interval) in task_figures[number].items()
                },
                "judged": {
                    name: asdict(wins)
                    for name, of_flows in gains.items()
                    if (wins := of_flows[number]) is not None
                },
            }
        )
    return {"split": split, "examples": len(examples), "flows": flows}
