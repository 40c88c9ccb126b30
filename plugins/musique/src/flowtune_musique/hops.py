"""Hop matching: thins the training set to the dev set's mix of hops (the paper's section 3.2)."""

from __future__ import annotations

import hashlib

from flowtune_cli import DataError

SHARES = {"2hop": 0.25, "3hop": 0.5, "4hop": 1.0}


def kept(record_id: str) -> bool:
    """Whether the records of this official id stay, by a hash of the id: both of a pair or none.

    Raises:
        DataError: the id does not say how many hops it has.
    """
    hops = record_id[:4]
    if hops not in SHARES:
        raise DataError(
            f"the id '{record_id}' does not begin with its number of hops (2hop, 3hop or 4hop),"
            " so the training set cannot be thinned to the dev set's mix of hops."
            " Set match_hops = false to train on every record."
        )
    return _unit_interval(record_id) < SHARES[hops]


def _unit_interval(text: str) -> float:
    head = hashlib.sha256(text.encode()).digest()[:8]
    return int.from_bytes(head, "big") / 2**64
