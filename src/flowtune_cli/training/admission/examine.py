"""All that the examples that were played tell, before a flow is trained or by the command check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.errors import UsageError
from ...flow.example import Example
from ...flow.task import Task
from ...runtime.event_loop import EpisodeLimits
from ...runtime.second_play import Recorded, play_again
from .differences import AGAIN, OTHER_GOLD, difference_findings, other_golds
from .failures import failure_findings
from .finding import Finding, in_order
from .labels import label_findings
from .learning import learning_findings, nothing_to_learn
from .objects import object_findings
from .prompts import cut_findings
from .requests import confused_findings, given_up_findings, request_findings
from .results import result_findings

_REFUSED = (
    "model-not-found",
    "no-calls",
    "not-a-text",
    "not-awaited",
    "object-shown",
    "request-differs",
    "reward-misspelt",
)
"""What is certainly wrong. Rollouts that do not replay teach nothing, and count as failed."""
_TOLD = (
    "call-given-up",
    "equal-requests",
    "gold-among-inputs",
    "gold-in-prompt",
    "no-calls",
    "no-judge",
    "no-result",
    "no-target",
    "object-shown",
    "output-empty",
    "output-truncated",
    "prompt-cut",
    "request-failed",
    "reward-undefined",
    "reward-unreported",
    "rewards-differ",
    "target-not-offered",
    "target-shown",
    "targets-differ",
)
_MOST_EPISODES = 16
"""How many of a mini-batch are played again before training."""


class Refused(UsageError):
    """A run is not begun, as it would learn nothing or something wrong."""


def recordings(traces: Sequence[Trace]) -> list[Recorded]:
    """What can be played again: the episodes that did not fail."""
    return [Recorded.of(trace.episode) for trace in traces if trace.episode.failure is None]


def examine(
    task: Task,
    traces: Sequence[Trace],
    pool: Sequence[Example],
    *,
    limits: EpisodeLimits,
    check: Callable[[], None] = lambda: None,
    recorded: Sequence[Recorded] | None = None,
) -> list[Finding]:
    """Everything that can be told in this process without a model, the worst first.

    Args:
        traces: examples that were played, with their deviations.
        pool: examples whose labels may be tried in place of theirs.
        limits: of an episode that is played again.
        check: called now and then; may raise, which ends it.
        recorded: what can be played again, if the traces come from other processes.
    """
    recorded = recordings(traces) if recorded is None else recorded
    again = play_again(task, recorded, limits=limits, check=check)
    swapped = other_golds(recorded, pool)
    with_swapped = play_again(task, swapped, limits=limits, check=check)
    examples = {example.id: example for example in (*(t.example for t in traces), *pool)}
    found = [
        *_unlabelled(task, traces),
        *label_findings(task, list(examples.values())),
        *difference_findings(recorded, again, AGAIN),
        *failure_findings(traces),
        *request_findings(traces),
        *given_up_findings(recorded),
        *confused_findings(traces),
        *result_findings(task, traces),
        *object_findings(traces),
        *learning_findings(task, traces),
        *cut_findings(traces),
    ]
    if any(again):  # then rollouts differ, too
        found = [each for each in found if each.code != "rollout-differs"]
    else:  # else it could not be told why something differs
        found += difference_findings(swapped, with_swapped, OTHER_GOLD)
    nothing = nothing_to_learn(task)
    return in_order([*([nothing] if nothing else []), *found])


def _unlabelled(task: Task, traces: Sequence[Trace]) -> Iterator[Finding]:
    for trace in traces:
        if trace.example.gold is None:
            yield Finding(
                "no-labels",
                "error",
                "there are examples without labels, which training refuses:"
                f" {task.why_unlabelled(trace.example).removesuffix('.')}",
                "Check a split that has labels (--split), or leave such examples out.",
                example=trace.example.id,
            )


def admit(
    task: Task,
    traces: Sequence[Trace],
    *,
    limits: EpisodeLimits,
    check: Callable[[], None] = lambda: None,
    recorded: Sequence[Recorded] | None = None,
) -> list[Finding]:
    """The quick part of the check, on the first mini-batch that a run has played.

    It asks nothing of a model and changes nothing of the run.

    Args:
        recorded: see ``examine``.

    Returns:
        What the user should know at once.

    Raises:
        Refused: the flow would learn nothing, or something wrong; lists why.
    """
    pool = [trace.example for trace in traces]
    traces = traces[:_MOST_EPISODES]
    recorded = None if recorded is None else recorded[:_MOST_EPISODES]
    found = examine(task, traces, pool, limits=limits, check=check, recorded=recorded)
    refused = [each for each in found if each.code in _REFUSED and each.severity == "error"]
    if refused:
        raise Refused(
            "training is refused after the first mini-batch was played, before anything was"
            f" learned:\n{_listed(refused)}\n'flowtune check {task.name}' shows more."
        )
    return [each for each in found if each.code in _TOLD]


def _listed(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in findings:
        place = f" ({finding.place})" if finding.place else ""
        lines.append(f"- {finding.message}{place}. {finding.advice}")
    return "\n".join(lines)
