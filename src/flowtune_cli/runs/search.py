"""Looks for a text in the episodes of a store: in questions, prompts, outputs and alternatives.

It reads the texts themselves, some episodes at a time, so that the first finds are there at once
and a search can be given up. There is no index to keep: one of words makes writing two fifths
dearer and finds whole words alone; one of trigrams is more than twice as large as the texts.

Prompts are the episode's own: what a rollout's prompts say besides is in some output, mostly.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from .stored import Searched

_HOLDS = r"LIKE :pattern ESCAPE '\'"
_OF_THESE = "IN ({numbers})"
_QUERY = f"""
    SELECT number FROM episodes JOIN examples ON id = example_id
    WHERE number {_OF_THESE} AND question {_HOLDS}
    UNION SELECT episode FROM steps WHERE episode {_OF_THESE} AND output {_HOLDS}
    UNION SELECT episode FROM alternatives WHERE episode {_OF_THESE} AND text {_HOLDS}
    UNION SELECT episode FROM steps CROSS JOIN texts ON sha256 = prompt
    WHERE episode {_OF_THESE} AND rollout = 0 AND texts.text {_HOLDS}"""


def search(
    connection: sqlite3.Connection, text: str, numbers: Sequence[int], at_once: int
) -> Iterator[Searched]:
    """Search these episodes in their order. ASCII letters are found in either case."""
    escaped = text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    for first in range(0, len(numbers), at_once):
        chunk = numbers[first : first + at_once]
        query = _QUERY.format(numbers=",".join(map(str, chunk)))
        rows = connection.execute(query, {"pattern": f"%{escaped}%"})
        found = {row[0] for row in rows}
        yield Searched(first + len(chunk), tuple(n for n in chunk if n in found))
