"""Tool calls between special tokens, as DeepSeek-V3 and its successors write them.

V3 and R1 name the type of what is called, and fence the arguments; from V3.1 on, they are bare.
"""

from __future__ import annotations

import json
import re
from typing import Any

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCE = re.compile(r"function\s*(\S+)\s*```json\s*(.*?)\s*```\s*", re.DOTALL)


def parse_deepseek(text: str) -> tuple[str, list[tuple[str, Any]]] | None:
    """The text before the calls, and each call's name and arguments; None if not well-formed."""
    before, opened, rest = text.partition(CALLS_BEGIN)
    body, closed, behind = rest.partition(CALLS_END)
    if not opened or not closed or behind.strip():
        return None
    head, *parts = body.split(BEGIN)
    calls = []
    for part in parts:
        written, ended, between = part.rpartition(END)
        kind, _, rest = written.partition(SEP)
        if not ended or between.strip():
            return None
        fenced = _FENCE.fullmatch(kind + rest) if kind.strip() == "function" else None
        name, arguments = fenced.groups() if fenced else (kind.strip(), rest)
        try:
            calls.append((name, json.loads(arguments, strict=False)))
        except (ValueError, RecursionError):
            return None
    return None if head.strip() else (before.strip(), calls)


def deepseek_call(template: str, name: str) -> tuple[str, str]:
    """What the model writes before and behind the arguments of a call."""
    if "```json" in template:
        return f"{BEGIN}function{SEP}{name}\n```json\n", f"\n```{END}"
    return f"{BEGIN}{name}{SEP}", END
