"""All that ``flowtune evaluate`` says of MuSiQue predictions: the official figures, and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .intervals import intervals
from .metrics import Scored, figures, group_columns, mean, plain_columns


def report(rows: Sequence[Scored]) -> dict[str, Any]:
    """The official figures first, under their official names; the same again by hops.

    Adds to them, in MuSiQue-Full, ``sufficiency_accuracy`` over all records; ``counts``;
    ``intervals``; and ``by_hops``, the figures of the questions with so many hops.

    Raises:
        DataError: an id has no pair, in MuSiQue-Full.
    """
    whole = _part(rows)  # first, so that an error is of all ids
    hops = sorted({_hops(row) for row in rows})
    parts = {name: _part([row for row in rows if _hops(row) == name]) for name in hops}
    return {**whole, "by_hops": parts}


def _part(rows: Sequence[Scored]) -> dict[str, Any]:
    plain, groups = plain_columns(rows), group_columns(rows)
    sufficiency = {"sufficiency_accuracy": [float(row.sufficiency) for row in rows]}
    full = bool(groups)
    answerable = len(plain["answer_f1"])
    counts = {"records": len(rows)}
    if full:
        counts |= {"answerable": answerable, "unanswerable": len(rows) - answerable}
        counts["pairs"] = len(groups["group_answer_sufficiency_f1"])
    return {
        **figures(rows),
        **({name: round(mean(values), 3) for name, values in sufficiency.items()} if full else {}),
        "counts": counts,
        # Records are drawn for figures of records, and pairs for figures of pairs.
        "intervals": {
            **intervals(plain),
            **intervals(groups),
            **(intervals(sufficiency) if full else {}),
        },
    }


def _hops(row: Scored) -> str:
    """``2hop``, ``3hop`` or ``4hop``, which official ids begin with; else ``other``."""
    head = row.record_id[:4]
    return head if head in ("2hop", "3hop", "4hop") else "other"
