"""What a run's store gives away whole, in a stream: preferences with their prompts, and episodes.

A stream sees the store as it was when it began, whatever is written meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import schema
from .episode_reader import of_row, read_episode
from .reader import RunReader
from .sqlite_errors import told

_PREFERENCES = """
    SELECT preferences.*, adapter_version, example_id, question, texts.text AS prompt,
        steps.tokens > 0 AS written,
        steps.truncated OR coalesce(alternatives.truncated, 0) AS truncated,
        CASE WHEN chosen = steps.output THEN 1 ELSE 0 END AS greedy_chosen
    FROM preferences
        JOIN steps USING (episode, step)
        JOIN texts ON sha256 = steps.prompt
        JOIN episodes ON episodes.number = preferences.episode
        JOIN examples ON examples.id = example_id
        LEFT JOIN alternatives ON alternatives.episode = preferences.episode
            AND alternatives.step = preferences.step
            AND alternatives.number = preferences.alternative
    WHERE steps.rollout = 0"""
_IN_ORDER = "ORDER BY preferences.episode, preferences.step, alternative"


@dataclass(frozen=True)
class PreferenceInContext:
    """A preference with what its node was shown.

    Args:
        prompt: as the model saw it, its chat template and all.
        written: the outputs are texts that the model wrote after the prompt; else they were
            chosen among given ones, as a ranked document is.
        truncated: one of the two outputs was cut off.
        greedy_chosen: the greedy output was the better one.
    """

    episode: int
    step: int
    node: str
    alternative: int
    prompt: str
    chosen: str
    rejected: str
    margin: float
    adapter_version: int
    example_id: str
    question: str
    written: bool
    truncated: bool
    greedy_chosen: bool


class RunExport(RunReader):
    """A run's store, open for reading whole. Raises as ``RunReader`` does."""

    def __enter__(self) -> RunExport:
        return self

    def preferences(
        self, node: str | None = None, episodes: int | None = None
    ) -> Generator[PreferenceInContext, None, None]:
        """The preferences in the order in which they were made.

        Args:
            node: only its own.
            episodes: only those of so many first episodes; so a second stream has no more.
        """
        of_node = "" if node is None else "AND preferences.node = :node"
        of_first = "" if episodes is None else "AND preferences.episode < :episodes"
        with self._moment() as connection:
            query = f"{_PREFERENCES} {of_node} {of_first} {_IN_ORDER}"
            for row in connection.execute(query, {"node": node, "episodes": episodes}):
                yield _preference(row)

    def preference_sample(self, node: str, count: int) -> list[PreferenceInContext]:
        """Preferences of a node, spread evenly from its first to its last."""
        with self._moment() as connection:
            where = (
                "SELECT rowid FROM preferences WHERE node = ? ORDER BY episode, step, alternative"
            )
            ids = [row[0] for row in connection.execute(where, (node,))]
            last = len(ids) - 1
            places = range(len(ids)) if last < count else range(count)
            of_places = {ids[place * last // max(len(places) - 1, 1)] for place in places}
            marks = ", ".join("?" for _ in of_places)
            query = f"{_PREFERENCES} AND preferences.rowid IN ({marks}) {_IN_ORDER}"
            return [_preference(row) for row in connection.execute(query, sorted(of_places))]

    def reference_decisions(self) -> list[tuple[int, Mapping[str, bool]]]:
        """How many episodes had been played, and by node whether its reference moved then."""
        query = """
            SELECT first_episode + episodes AS played, node, moved
            FROM reference_updates JOIN batches ON number = batch ORDER BY batch, node"""
        decisions: dict[int, dict[str, bool]] = {}
        with self._moment() as connection:
            for row in connection.execute(query):
                decisions.setdefault(row["played"], {})[row["node"]] = bool(row["moved"])
        return list(decisions.items())

    def all_episodes(self) -> Generator[dict[str, Any], None, None]:
        """Every episode as JSON values: the fields of ``stored.StoredEpisode``."""
        with self._moment() as connection:
            [last] = connection.execute("SELECT coalesce(max(number), -1) FROM episodes").fetchone()
            for number in range(last + 1):
                episode = read_episode(connection, number)
                assert episode is not None, "episodes are numbered without a gap"
                yield asdict(episode)


def has_begun(path: Path) -> bool:
    """Whether a run has begun to write its store.

    Raises:
        FlowtuneError: the file cannot be read.
    """
    if not path.is_file():
        return False
    with told(path, "read"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            return not schema.is_empty(connection)
        finally:
            connection.close()


def _preference(row: sqlite3.Row) -> PreferenceInContext:
    flags = ("written", "truncated", "greedy_chosen")
    return of_row(PreferenceInContext, row, **{name: bool(row[name]) for name in flags})
