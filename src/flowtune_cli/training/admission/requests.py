"""Findings about a program's requests: those that failed or were given up, and equal ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.episode import RequestError
from ...runtime.second_play import Recorded
from .finding import Finding

_MOST = 300
"""The most letters of an error."""


def request_findings(traces: Sequence[Trace]) -> Iterator[Finding]:
    """A finding for each error of an episode or rollout that went on and did not fail.

    Where it fails, its failure says the same.
    """
    for trace in traces:
        for run in trace.runs:
            if run.failure is None:
                for error in run.request_errors:
                    yield _finding(error, trace.example.id)


def given_up_findings(recorded: Sequence[Recorded]) -> Iterator[Finding]:
    """A finding for each node whose calls a flow did not wait for."""
    for each in recorded:
        nodes = [key[0] for key in each.recording.cancelled]
        for node in dict.fromkeys(nodes):
            yield Finding(
                "call-given-up",
                "warning",
                f"the flow did not wait for calls of node '{node}': it gave them up, or ended"
                " before they were answered",
                "How long a node takes depends on how many episodes are played at once: wait"
                " without a time limit of the flow's own, and await all that was begun.",
                node=node,
                example=each.example.id,
                count=nodes.count(node),
            )


def confused_findings(traces: Sequence[Trace]) -> Iterator[Finding]:
    """A finding for each episode whose equal requests a rollout may mix up."""
    for trace in traces:
        episode = trace.episode
        if any(episode.asked_alike[node] for node in episode.confused):
            yield Finding(
                "equal-requests",
                "warning",
                "equal requests whose answers are sampled are sent at once",
                f"{episode.chance} Where their order makes a difference, rollouts fail.",
                example=trace.example.id,
            )


def _finding(error: RequestError, example: str) -> Finding:
    message = error.message if len(error.message) <= _MOST else f"{error.message[:_MOST]} ..."
    said = f"the program went on after a request that failed: {message.removesuffix('.')}"
    if error.code == "model_not_found":
        return Finding(
            "model-not-found",
            "error",
            said,
            "Ask for a node that is declared, [tasks.TASK.nodes.NODE], or for a model that is"
            " passed through, and let the program fail where there is no answer.",
            place=error.place,
            example=example,
        )
    return Finding(
        "request-failed",
        "warning",
        said,
        "Ask for what can be answered, and let the program fail where there is no answer: what it"
        " makes of an error is played and learned from like any answer.",
        place=error.place,
        example=example,
    )
