"""Findings about what a flow does otherwise when it is played again with the same answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...flow.example import Example
from ...flow.value_digest import NoDigest, value_digest
from ...runtime.second_play import Recorded
from ...runtime.tolerant_replay import Difference
from .finding import Finding, Severity

AGAIN = "when the flow is played again"
ELSEWHERE = "when the flow is played in another process"
LATER = "when the flow is played on another day"
OTHER_GOLD = "when the example has other labels"

_RULE = "A flow must depend on nothing but its example and its nodes' outputs."
_ADVICE = {
    AGAIN: f"{_RULE} Wrap what changes (a clock, a random number, a uuid, a tool, a counter) in"
    " await episode.effect(function, ...), which keeps its result, or take it from the example.",
    ELSEWHERE: f"{_RULE} Sort what comes from a set, and use hashlib instead of hash(): both"
    " differ from process to process.",
    LATER: f"{_RULE} Take the date from the example, or wrap the clock in"
    " await episode.effect(function, ...), which keeps its result.",
    OTHER_GOLD: "There are no labels where the flow is used. Show nodes the inputs alone, and use"
    " example.gold for rewards and targets.",
}


FACTS = {"result": "result-differs", "rewards": "rewards-differ", "targets": "targets-differ"}
"""The kind of finding where something else than a request differs."""


def difference_findings(
    recorded: Sequence[Recorded], found: Sequence[Sequence[Difference] | None], when: str
) -> Iterator[Finding]:
    """The findings of a second play, one a difference.

    Args:
        recorded: what was played again.
        found: what differed at each example; None where it did not end.
        when: how the second play was another one: one of the constants above.
    """
    for each, differences in zip(recorded, found, strict=True):
        example = each.example
        if differences is None and when == AGAIN:
            yield Finding(
                "not-replayed",
                "note",
                "it was not seen whether the flow asks the same again: it took too long",
                "Wrap slow tools in await episode.effect(function, ...), which runs them once.",
                example=example.id,
            )
        for difference in differences or ():
            if when == OTHER_GOLD and difference.now is None:
                continue  # it ended sooner, as rewards cannot be counted by labels of another
            yield _finding(difference, when, example, each.chance or _ADVICE[when])


def _finding(difference: Difference, when: str, example: Example, advice: str) -> Finding:
    what = difference.what
    node: str | None = None
    code = FACTS.get(what, "request-differs")
    severity: Severity = "warning" if what in FACTS else "error"
    if what == "failure":
        message = f"the flow fails {when}, and not before"
    elif what in FACTS:
        message = f"all requests are the same {when}, and the {what} not"
    elif what.startswith("effect "):
        message = f"{what} is called with other arguments {when}"
    else:
        node = what
        if difference.before is None:
            message = f"node '{node}' is called more often {when}"
        elif difference.now is None:
            message = f"node '{node}' is called less often {when}"
        else:
            message = f"node '{node}' is shown something else {when}"
    if when == OTHER_GOLD:
        code, severity = "gold-in-prompt", "warning"
    return Finding(
        code,
        severity,
        message,
        advice,
        node=node,
        place=difference.place,
        example=example.id,
        before=difference.before,
        now=difference.now,
    )


def other_golds(recorded: Sequence[Recorded], pool: Sequence[Example]) -> list[Recorded]:
    """Each episode with the labels of another example; without those for which there are none.

    Args:
        pool: examples whose labels may be taken.
    """
    golds = [(_digest(other.gold), other.gold) for other in pool if other.gold is not None]
    swapped = []
    for each in recorded:
        own = _digest(each.example.gold)
        others = (gold for digest, gold in golds if digest != own)
        gold = next(others, None)
        if gold is not None and each.example.gold is not None:
            swapped.append(each.with_gold(gold))
    return swapped


def _digest(value: Any) -> str:
    try:
        return value_digest(value)
    except NoDigest:
        return repr(value)
