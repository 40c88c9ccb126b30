"""Ids and times on the wire, made from a call's key.

Programs send them back in later requests, so a replay must have the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

_FIRST_SECOND = 1_600_000_000
_SECONDS = 1 << 26


def wire_id(prefix: str, key: Sequence[str], *parts: object) -> str:
    """An id such as "chatcmpl-4f…": equal for equal keys, in every process.

    Args:
        parts: tell apart several ids of one call.
    """
    return f"{prefix}{_digest(key, *parts)[:32]}"


def tool_call_id(key: Sequence[str], number: int) -> str:
    """An id of nine letters and digits, as Mistral's chat templates take no other."""
    return _digest(key, "tool", number)[:9]


def created(key: Sequence[str]) -> int:
    """Seconds of an invented time, as no clock may show in a flow."""
    return _FIRST_SECOND + int(_digest(key, "created")[:12], 16) % _SECONDS


def _digest(key: Sequence[str], *parts: object) -> str:
    text = json.dumps([list(key), *map(str, parts)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
