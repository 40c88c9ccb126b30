"""``flowtune eval``: plays runs on the same examples, and says which is better, and how surely."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    from .paired_bootstrap import Interval, Paired, Wins

_COLUMNS = ["figure", "flow", "value", "95 %", "difference", "95 % of it", "wins"]
Found = dict[str, dict[str, Any]]


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
    from ..flow.task import Task
    from ..learning.peers import Stop
    from .alike import check_alike
    from .examples import first_examples, note_left_out, read_examples

    first = found[0].player.task
    split = split or first.splits[min(1, len(first.splits) - 1)]
    examples = first_examples(read_examples(first, data, split), limit)
    note_left_out(first)
    for each in found:
        check_alike(peers, each.player.resolved.settings, examples)
    peers.patience = found[0].player.resolved.settings.training.rank_timeout
    _warn_of_known(found, examples, data, split)
    labelled = all(example.gold is not None for example in examples)
    own = labelled and type(first).evaluate is not Task.evaluate
    try:
        all_played, task_figures, gains = _play_all(found, examples, out, own, peers)
    except Stop:
        return 130
    if peers.rank:
        return 0
    figures = _compared(all_played, len(examples))
    if json:
        print_json(_as_json(found, examples, split, all_played, figures, task_figures, gains))
        return 0
    rows = [*_rows(found, figures), *_task_rows(found, task_figures, figures)]
    rows += _judged_rows(found, gains)
    if not rows:
        note("there are no figures: the flow reports no reward, and no node has an evaluator")
    else:
        print_rows(_COLUMNS, rows)
    return 0


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
                task_figures.append(_evaluated(each.player.task, examples, played) if own else {})
            played.predictions.clear()
            if len(all_played) < len(found):
                session = None  # the next flow may have another model
        gains: dict[str, list[Wins | None]] = {}
        if peers.rank == 0 and not any(
            rewards for played in all_played for rewards in played.rewards.values()
        ):
            assert session is not None
            gains = _judged(session, evaluators, examples, all_played, check)
    return all_played, task_figures, gains


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


def _evaluated(task: Task, examples: Sequence[Example], played: Played) -> dict[str, Any]:
    """The task's own figures of the examples whose flow came to its end: value and interval."""
    from ..flow.figures import each_figure

    positions = sorted(played.predictions)
    if not positions:
        return {}
    chosen = [examples[position] for position in positions]
    try:
        with phase("evaluating", silent=True):
            figures = task.evaluate(chosen, [played.predictions[n] for n in positions])
    except FlowtuneError as error:
        note(f"without the task's own figures: {error}")
        return {}
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


def _rows(
    found: Sequence[Contestant], figures: Mapping[str, list[Paired]]
) -> Iterator[dict[str, str]]:
    for name, of_flows in figures.items():
        for each, figure in zip(found, of_flows, strict=True):
            yield {
                "figure": name,
                "flow": each.name,
                "value": _number(figure.value),
                "95 %": _interval(figure.interval),
                "difference": "" if figure.wins is None else _number(figure.difference, "+"),
                "95 % of it": _interval(figure.difference_interval, "+"),
                "wins": _wins(figure.wins),
            }


def _task_rows(
    found: Sequence[Contestant],
    task_figures: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Any],
) -> Iterator[dict[str, str]]:
    """Those of the task's own evaluation that are no rewards."""
    names = dict.fromkeys(name for of_flow in task_figures for name in of_flow)
    for name in names:
        if name in figures:
            continue
        for each, of_flow in zip(found, task_figures, strict=True):
            value, interval = of_flow.get(name, (None, None))
            yield {
                **dict.fromkeys(_COLUMNS, ""),
                "figure": name,
                "flow": each.name,
                "value": _number(value) if value is None or isinstance(value, float) else value,
                "95 %": _interval(interval),
            }


def _judged_rows(
    found: Sequence[Contestant], gains: Mapping[str, Sequence[Wins | None]]
) -> Iterator[dict[str, str]]:
    for name, of_flows in gains.items():
        for each, wins in zip(found, of_flows, strict=True):
            if wins is not None:
                row = {"figure": name, "flow": each.name, "wins": _wins(wins)}
                yield {**dict.fromkeys(_COLUMNS, ""), **row}


def _number(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"


def _interval(ends: Interval | Sequence[float] | None, sign: str = "") -> str:
    return "" if ends is None else f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}"


def _wins(wins: Wins | None) -> str:
    if wins is None:
        return ""
    if not wins.compared:
        return "nothing to compare"
    shares = [
        f"{getattr(wins, what) / wins.compared:.0%} {word}"
        for what, word in (("better", "better"), ("worse", "worse"), ("ties", "alike"))
    ]
    return f"{', '.join(shares)} of {wins.compared}"


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
