"""Full-text search in the episodes of a store: questions, prompts, outputs and alternatives.

It scans the texts, some episodes at a time, so that the first results appear at once and a search
can be cancelled. There is no index: one of words makes writing 40 % slower and finds whole words
only; one of trigrams is more than twice as large as the texts.

Only the prompts of the episodes themselves are searched: what a rollout's prompts add is usually
in an output.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from .records import SearchProgress

_LIKE = r"LIKE :pattern ESCAPE '\'"
_IN = "IN ({numbers})"
_QUERY = f"""
    SELECT number FROM episodes JOIN examples ON id = example_id
    WHERE number {_IN} AND question {_LIKE}
    UNION SELECT episode FROM steps WHERE episode {_IN} AND output {_LIKE}
    UNION SELECT episode FROM alternatives WHERE episode {_IN} AND text {_LIKE}
    UNION SELECT episode FROM steps CROSS JOIN texts ON sha256 = prompt
    WHERE episode {_IN} AND rollout = 0 AND texts.text {_LIKE}"""


def search(
    connection: sqlite3.Connection, text: str, numbers: Sequence[int], chunk_size: int
) -> Iterator[SearchProgress]:
    """Search these episodes in their order, ignoring the case of ASCII letters."""
    escaped = text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    for first in range(0, len(numbers), chunk_size):
        chunk = numbers[first : first + chunk_size]
        query = _QUERY.format(numbers=",".join(map(str, chunk)))
        matches = {row[0] for row in connection.execute(query, {"pattern": f"%{escaped}%"})}
        yield SearchProgress(first + len(chunk), tuple(n for n in chunk if n in matches))
