"""A finding of the admission check: what is wrong, where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning", "note"]
"""An error: nothing, or something wrong, would be learned. A note: something was not checked."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a flow.

    Args:
        code: its kind, which does not change with the wording.
        message: what is wrong, a sentence without a full stop.
        advice: what to do, in whole sentences.
        place: the file and line of the flow, where it is known.
        example: the id of the first example that showed it.
        count: how often it was found.
        before, now: the texts that differ, whole; None where a call was not made at all.
    """

    code: str
    severity: Severity
    message: str
    advice: str
    node: str | None = None
    reward: str | None = None
    place: str | None = None
    example: str | None = None
    count: int = 1
    before: str | None = None
    now: str | None = None


def in_order(findings: list[Finding]) -> list[Finding]:
    """The worst first; those of one kind and place are one, with their number."""
    first: dict[tuple[str | None, ...], Finding] = {}
    for finding in findings:
        # Without a place, the message is what tells findings of a kind apart.
        where = finding.place or finding.message
        key = (finding.code, finding.node, finding.reward, where)
        known = first.get(key)
        first[key] = finding if known is None else replace(known, count=known.count + finding.count)
    return sorted(first.values(), key=lambda finding: SEVERITIES.index(finding.severity))
