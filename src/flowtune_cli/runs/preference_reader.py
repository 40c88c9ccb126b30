"""Reads preferences with their prompts from a run's store: a stream of all, or a sample."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from dataclasses import dataclass

from .episode_reader import from_row
from .reader import RunReader

_PREFERENCES = """
    SELECT preferences.*, adapter_version, example_id, question, texts.text AS prompt,
        steps.tokens > 0 AS generated,
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
_ORDER = "ORDER BY preferences.episode, preferences.step, alternative"


@dataclass(frozen=True)
class PreferenceWithPrompt:
    """A preference with the prompt of its step.

    Args:
        prompt: as the model saw it, with the chat template.
        generated: the outputs are texts that the model generated after the prompt; otherwise they
            were selected from candidates, such as a ranked document.
        truncated: one of the two outputs was truncated.
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
    generated: bool
    truncated: bool
    greedy_chosen: bool


def stream_preferences(
    reader: RunReader, node: str | None = None, episodes: int | None = None
) -> Generator[PreferenceWithPrompt, None, None]:
    """The preferences in the order in which they were made, from one snapshot of the store.

    Args:
        node: only the preferences of this node.
        episodes: only those of the first ``episodes`` episodes, so that a second stream of a live
            run has the same preferences.
    """
    of_node = "" if node is None else "AND preferences.node = :node"
    of_first = "" if episodes is None else "AND preferences.episode < :episodes"
    query = f"{_PREFERENCES} {of_node} {of_first} {_ORDER}"
    with reader.snapshot() as connection:
        for row in connection.execute(query, {"node": node, "episodes": episodes}):
            yield _preference(row)


def sample_preferences(reader: RunReader, node: str, count: int) -> list[PreferenceWithPrompt]:
    """At most ``count`` preferences of a node, evenly spread from its first to its last."""
    with reader.snapshot() as connection:
        query = "SELECT rowid FROM preferences WHERE node = ? ORDER BY episode, step, alternative"
        ids = [row[0] for row in connection.execute(query, (node,))]
        last = len(ids) - 1
        count = min(count, len(ids))
        sample = {ids[number * last // max(count - 1, 1)] for number in range(count)}
        marks = ", ".join("?" for _ in sample)
        query = f"{_PREFERENCES} AND preferences.rowid IN ({marks}) {_ORDER}"
        return [_preference(row) for row in connection.execute(query, sorted(sample))]


def _preference(row: sqlite3.Row) -> PreferenceWithPrompt:
    flags = ("generated", "truncated", "greedy_chosen")
    return from_row(PreferenceWithPrompt, row, **{name: bool(row[name]) for name in flags})
