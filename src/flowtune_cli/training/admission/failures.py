"""Findings about flows that fail: what an exception says, and in which line of the flow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...flow.deviation import Outcome, Trace
from ...flow.episode import Failure
from ...flow.errors import ReplayError
from ...flow.flow_call import NotAwaited
from ...flow.prompt import NotAText
from ...runtime.flow_run import FlowLimit
from .finding import Finding

_LINE = re.compile(r'^ *\+? *\|? *File "([^"]+)", line (\d+)', re.MULTILINE)
_OURS = str(Path(__file__).parents[2])

_ADVICE = {
    NotAwaited.__name__: "Write 'await' before the call.",
    NotAText.__name__: "Give the prompt's field a text.",
    FlowLimit.__name__: "Let the flow end, or raise the limit.",
    ReplayError.__name__: "A flow must depend on nothing but its example and its nodes'"
    " outputs. Wrap anything else in await episode.effect(function, ...).",
}
CODES = {
    NotAwaited.__name__: "not-awaited",
    NotAText.__name__: "not-a-text",
    FlowLimit.__name__: "limit",
    ReplayError.__name__: "rollout-differs",
}


def failure_findings(traces: Sequence[Trace]) -> Iterator[Finding]:
    """Episodes, rollouts and evaluators that failed, one finding a failure."""
    for trace in traces:
        if trace.episode.failure is not None:
            yield _finding(trace.episode.failure, trace.example.id, "the flow failed")
        for deviation in trace.deviations:
            rollout = deviation.rollout
            if rollout is not None and rollout.failure is not None:
                what = f"the flow failed in a rollout of node '{deviation.node}'"
                yield _finding(rollout.failure, trace.example.id, what)
            elif deviation.outcome is Outcome.EVALUATOR_FAILED and deviation.failure is not None:
                what = f"the evaluator of node '{deviation.node}' failed"
                yield _finding(deviation.failure, trace.example.id, what)


def _finding(failure: Failure, example: str, what: str) -> Finding:
    kind = failure.error.partition(":")[0]
    code = CODES.get(kind, "failed")
    message = f"{what}: {failure.error.splitlines()[0]}" if failure.error else what
    return Finding(
        code,
        "error",
        message.removesuffix("."),
        _ADVICE.get(kind, f"'flowtune play --example {example} --deviate' shows all of it."),
        place=_place(failure.traceback),
        example=example,
        now=failure.error if kind == ReplayError.__name__ else failure.traceback,
    )


def _place(traceback: str) -> str | None:
    """The innermost line that is not flowtune's own."""
    lines = [(file, line) for file, line in _LINE.findall(traceback) if not file.startswith(_OURS)]
    return f"{lines[-1][0]}, line {lines[-1][1]}" if lines else None
