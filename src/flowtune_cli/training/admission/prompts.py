"""Findings about prompts that were cut, and outputs that were, or that say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.episode import Step
from .finding import Finding


def cut_findings(traces: Sequence[Trace]) -> Iterator[Finding]:
    """Nodes with prompts that did not fit, or with outputs that are all truncated, or all empty."""
    steps: dict[str, list[tuple[str, Step]]] = {}
    for trace in traces:
        for step in trace.episode.steps:
            steps.setdefault(step.node, []).append((trace.example.id, step))
    for node, called in steps.items():
        yield from _cut_prompts(node, called)
        yield from _truncated_outputs(node, called)
        yield from _empty_outputs(node, called)


def _cut_prompts(node: str, called: Sequence[tuple[str, Step]]) -> Iterator[Finding]:
    cut = [(example, step) for example, step in called if step.response.dropped_tokens]
    if not cut:
        return
    example, worst = max(cut, key=lambda each: each[1].response.dropped_tokens)
    dropped = worst.response.dropped_tokens
    whole = dropped + worst.response.prompt_tokens
    yield Finding(
        "prompt-cut",
        "warning",
        f"the prompt of node '{node}' is cut at {len(cut):,} of {len(called):,} calls: {dropped:,}"
        f" of {whole:,} tokens are not shown at step {worst.index}",
        "Show it less: fewer or shorter inputs. Raise model.context if the model allows it, lower"
        " the node's 'max_new_tokens', or name in the template's 'truncate' what may be cut.",
        node=node,
        example=example,
        count=len(cut),
    )


def _truncated_outputs(node: str, called: Sequence[tuple[str, Step]]) -> Iterator[Finding]:
    if all(step.output.truncated for _, step in called):
        yield Finding(
            "output-truncated",
            "warning",
            f"every output of node '{node}' is truncated ({len(called):,})",
            "Raise its 'max_new_tokens', end it with 'stop', or tell it to be brief.",
            node=node,
            example=called[0][0],
            count=len(called),
        )


def _empty_outputs(node: str, called: Sequence[tuple[str, Step]]) -> Iterator[Finding]:
    if all(step.output.score is not None and not step.output.text.strip() for _, step in called):
        yield Finding(
            "output-empty",
            "warning",
            f"every output of node '{node}' is empty ({len(called):,})",
            "See whether one of its 'stop' is what the model begins with, and what its prompt asks"
            " for.",
            node=node,
            example=called[0][0],
            count=len(called),
        )
