"""Reads a whole episode, with all that was tried at its steps, from a run's store."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from typing import Any, TypeVar

from ..flow.deviation import Outcome
from ..flow.episode import RewardEvent, Target
from .stored import StoredAlternative, StoredEpisode, StoredPreference, StoredRollout, StoredStep
from .stored_text import from_json

T = TypeVar("T")


def of_row(record: type[T], row: sqlite3.Row, **others: Any) -> T:
    """A dataclass whose fields are columns of a row, but for those given."""
    columns = {field.name for field in fields(record)} - others.keys()  # type: ignore[arg-type]
    return record(**{name: row[name] for name in columns}, **others)


def read_episode(connection: sqlite3.Connection, number: int) -> StoredEpisode | None:
    """The episode of that number; None if there is none."""
    query = """
        SELECT episodes.*, question, gold
        FROM episodes JOIN examples ON examples.id = example_id WHERE number = ?"""
    row = connection.execute(query, (number,)).fetchone()
    if row is None:
        return None

    def of_episode(table: str, order: str) -> sqlite3.Cursor:
        query = f"SELECT * FROM {table} WHERE episode = ? ORDER BY {order}"
        return connection.execute(query, (number,))

    steps = _steps(connection, number)
    targets = of_episode("targets", "number")
    preferences = of_episode("preferences", "step, alternative")
    return of_row(
        StoredEpisode,
        row,
        gold=from_json(row["gold"]),
        result=from_json(row["result"]),
        rewards=tuple(_rewards(connection, number)),
        targets=tuple(Target(target["step"], from_json(target["gold"])) for target in targets),
        steps=tuple(steps.get(0, ())),
        rollouts=tuple(
            of_row(
                StoredRollout,
                rollout,
                outcome=Outcome(rollout["outcome"]),
                stopped_early=bool(rollout["stopped_early"]),
                result=from_json(rollout["result"]),
                steps=tuple(steps.get(rollout["number"], ())),
            )
            for rollout in of_episode("rollouts", "number")
        ),
        preferences=tuple(of_row(StoredPreference, preference) for preference in preferences),
    )


def reward_means(connection: sqlite3.Connection, number: int) -> dict[str, float | None]:
    """Each reward's mean over its defined statements, as ``Episode.reward_means`` has it."""
    values: dict[str, list[float]] = {}
    for stated in _rewards(connection, number):
        defined = values.setdefault(stated.name, [])
        if stated.value is not None:
            defined.append(stated.value)
    return {name: sum(v) / len(v) if v else None for name, v in values.items()}


def _rewards(connection: sqlite3.Connection, number: int) -> list[RewardEvent]:
    query = "SELECT * FROM rewards WHERE episode = ? ORDER BY number"
    return [of_row(RewardEvent, row) for row in connection.execute(query, (number,))]


def _steps(connection: sqlite3.Connection, number: int) -> dict[int, list[StoredStep]]:
    """The steps of an episode (0) and of its rollouts, by rollout."""
    alternatives: dict[int, list[StoredAlternative]] = {}
    query = "SELECT * FROM alternatives WHERE episode = ? ORDER BY step, number"
    for row in connection.execute(query, (number,)):
        alternative = of_row(StoredAlternative, row, truncated=bool(row["truncated"]))
        alternatives.setdefault(row["step"], []).append(alternative)

    steps: dict[int, list[StoredStep]] = {}
    query = """
        SELECT steps.*, texts.text FROM steps JOIN texts ON sha256 = prompt
        WHERE episode = ? ORDER BY rollout, step"""
    for row in connection.execute(query, (number,)):
        its_own = row["rollout"] == 0
        step = of_row(
            StoredStep,
            row,
            index=row["step"],
            prompt=row["text"],
            truncated=bool(row["truncated"]),
            substituted=bool(row["substituted"]),
            detail=from_json(row["detail"]) or {},
            alternatives=tuple(alternatives.get(row["step"], ())) if its_own else (),
        )
        steps.setdefault(row["rollout"], []).append(step)
    return steps
