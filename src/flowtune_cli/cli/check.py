"""``flowtune check``: plays a few examples, and says what of the flow cannot be learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    ConfigOption,
    DataOption,
    JsonOption,
    ModelOption,
    PresetOption,
    RunOption,
    SetOption,
    SplitOption,
)
from .output import Styled, note, print_json, print_styled
from .phase import phase
from .programs import (
    GoldOption,
    ProgramOption,
    ProgramTaskArgument,
    RewardOption,
    given,
    warn_of_tools,
)

if TYPE_CHECKING:
    from ..flow.deviation import Trace
    from ..flow.example import Example
    from ..training.admission.finding import Finding
    from ..training.session import Session

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_AROUND = 40
"""Letters that are shown on either side of where two texts differ."""
_MOST = 160
"""The most letters of what differs."""


def check(
    task: ProgramTaskArgument = None,
    data: DataOption = None,
    split: SplitOption = None,
    run: RunOption = None,
    model: ModelOption = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Play this many of the first examples.")
    ] = 3,
    json: JsonOption = False,
    program: ProgramOption = None,
    reward: RewardOption = None,
    gold: GoldOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Play a few examples as training does, play them again, and say what is wrong with the flow.

    The nodes of a program are found, and written into flowtune.toml, where none is declared. Each
    finding says what to do. The exit code is 1 if one of them is an error.
    """
    from ..config.resolve import FILE
    from ..registry import load_registry
    from .declare import declare, is_undeclared
    from .examples import first_examples, note_left_out, read_examples
    from .player import load_player
    from .together import check_alone

    check_alone("check")
    of_program = given(program, reward, gold)
    player = load_player(
        load_registry(),
        task,
        run,
        config,
        set_,
        preset,
        of_program,
        model=model,
        needs_nodes=False,
    )
    # One more, for other labels.
    pool = first_examples(read_examples(player.task, data, split), limit + 1)
    note_left_out(player.task)
    if is_undeclared(player.task):
        declare(player, list(islice(pool, limit)), config or FILE, data)
        player = load_player(
            load_registry(), player.task.name, run, config, set_, preset, model=model
        )
    warn_of_tools(player.task)
    session = player.set_up()
    examples = list(islice(pool, limit))
    traces, findings = check_session(session, examples, pool)
    rollouts = sum(len(trace.deviations) for trace in traces)
    if json:
        print_json(
            {
                "task": player.task.name,
                "played_by": player.made_by,
                "examples": [example.id for example in examples],
                "rollouts": rollouts,
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
        )
    else:
        print_styled(_lines(findings))
    errors = sum(finding.severity == "error" for finding in findings)
    note(
        f"played {_count(len(traces), 'example')} and {_count(rollouts, 'rollout')}:"
        f" {_count(errors, 'error')}, {_count(len(findings) - errors, 'other finding')}"
    )
    return 1 if errors else 0


def check_session(
    session: Session, examples: Sequence[Example], pool: Sequence[Example]
) -> tuple[list[Trace], list[Finding]]:
    """What was played, and everything that was found, the worst first.

    Args:
        pool: examples whose labels may be tried in place of theirs.
    """
    from ..flow.errors import UsageError
    from ..training.admission.examine import examine, recordings
    from ..training.admission.finding import Finding, in_order
    from ..training.admission.other_processes import elsewhere_findings
    from ..training.admission.sampling import sampling_findings

    found: dict[int, Trace] = {}
    stopped: list[Finding] = []
    try:
        with phase(f"playing {_count(len(examples), 'example')}"):
            found.update(session.deviate(examples))
    except UsageError as error:
        stopped.append(
            Finding(
                "cannot-be-played",
                "error",
                f"the flow cannot be played: {str(error).removesuffix('.')}",
                "A run would end here, too.",
            )
        )
    traces = [found[position] for position in sorted(found)]
    limits = session.limits
    if not traces:
        return [], stopped
    with phase("playing them again", silent=True):
        findings = examine(session.task, traces, pool, limits=limits)
    settings = session.settings.model_dump(mode="json")
    recorded = recordings(traces)
    with phase("playing them again in other processes"):
        elsewhere = elsewhere_findings(session.task, settings, recorded, limits, known=findings)
    sampling = sampling_findings(session.task, traces, session.settings.training.rollouts)
    return traces, in_order([*stopped, *findings, *elsewhere, *sampling])


def _lines(findings: Sequence[Finding]) -> Iterator[Styled]:
    if not findings:
        yield "nothing is wrong", "green"
    for number, finding in enumerate(findings):
        if number:
            yield "", ""
        yield f"{finding.severity}  {finding.code}", _STYLES[finding.severity]
        yield f"  {finding.message}", "bold"
        where = [f"example {finding.example}"] if finding.example is not None else []
        where += [finding.place] if finding.place is not None else []
        where += [f"found {finding.count} times"] if finding.count > 1 else []
        if where:
            yield f"  at: {'; '.join(where)}", ""
        yield from _texts(finding)
        yield f"  do: {finding.advice}", ""


def _texts(finding: Finding) -> Iterator[Styled]:
    """Both texts where they begin to differ, or the last line of the only one."""
    before, now = finding.before, finding.now
    if before is not None and now is not None:
        for name, text in zip(("before", "now   "), excerpts(before, now), strict=True):
            yield f"  {name}: {text}", ""
        return
    name, only = ("now   ", now) if before is None else ("before", before)
    last = (only or "").strip().rpartition("\n")[2]
    if last and last not in finding.message:  # as a traceback's is
        yield f"  {name}: {_shown(last[:_MOST])}", ""


def excerpts(before: str, now: str) -> tuple[str, str]:
    """Two texts around where they differ, which stands in brackets; whole words differ."""
    begin = _common(before, now)
    shorter = min(len(before), len(now)) - begin
    end = min(_common(before[::-1], now[::-1]), shorter)
    while begin and not before[begin - 1].isspace():
        begin -= 1
    while end and not before[len(before) - end].isspace():
        end -= 1
    return _excerpt(before, begin, end), _excerpt(now, begin, end)


def _common(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _excerpt(text: str, begin: int, end: int) -> str:
    stop = len(text) - end
    differing = text[begin:stop]
    if len(differing) > _MOST:
        differing = f"{differing[:_MOST]} ..."
    head, tail = text[max(0, begin - _AROUND) : begin], text[stop : stop + _AROUND]
    left = "... " if begin > _AROUND else ""
    right = " ..." if end > _AROUND else ""
    return f"{left}{_shown(head)}[{_shown(differing)}]{_shown(tail)}{right}"


def _shown(text: str) -> str:
    """In one line, with line ends and control characters as escapes."""
    from ..runs.serialization import visible

    return visible(text).replace("\n", "\\n")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
