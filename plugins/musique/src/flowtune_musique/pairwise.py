"""Pairwise inference for MuSiQue-Full: of the two examples of an id exactly one is answerable.

The paper's "pairwise inference" (section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flowtune_cli import DataError

SCORE = "suff_raw_score"
"""The log-probability of 'sufficient', as the paper's reference implementation calls it."""


def pairwise(lines: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Make the example of each pair with the higher sufficiency score the answerable one.

    Args:
        lines: predictions with their official ``id`` and ``suff_raw_score``.

    Returns:
        The lines in the same order with ``predicted_answerable`` set anew (on equal scores the
        earlier line is the answerable one), and the ids that stand once and so have no partner:
        their lines are as they were.

    Raises:
        DataError: an id stands more than twice, a line lacks its id or score, or the score is not
            a finite number.
    """
    by_id: dict[str, list[int]] = {}
    for position, line in enumerate(lines):
        for field in ("id", SCORE):
            if field not in line:
                raise DataError(
                    f"prediction {position + 1} has no '{field}', so it cannot be paired;"
                    " 'flowtune predict --scores' writes it"
                )
        if not isinstance(line["id"], str):
            raise DataError(f"prediction {position + 1}: its 'id' is not a string")
        score = line[SCORE]
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not is_number or not math.isfinite(score):
            raise DataError(
                f"prediction {position + 1}: its '{SCORE}' is {score!r}, not a finite number"
            )
        by_id.setdefault(line["id"], []).append(position)

    paired = [dict(line) for line in lines]
    partnerless = []
    for name, positions in by_id.items():
        if len(positions) > 2:
            numbers = ", ".join(str(position + 1) for position in positions)
            raise DataError(
                f"the id '{name}' stands more than twice, in predictions {numbers};"
                " a pair of MuSiQue-Full has two"
            )
        if len(positions) == 1:
            partnerless.append(name)
            continue
        answerable = max(positions, key=lambda position: lines[position][SCORE])
        for position in positions:
            paired[position]["predicted_answerable"] = position == answerable
    return paired, partnerless
