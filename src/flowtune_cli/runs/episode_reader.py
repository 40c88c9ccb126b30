"""Reads one whole episode, with its rollouts and preferences, from a run's store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from ..flow.deviation import Outcome
from ..flow.effect import EffectRecord
from ..flow.episode import RequestError, RewardEvent, Target
from .episode_rewards import mean_by_name
from .records import (
    AlternativeRecord,
    EpisodeRecord,
    EvaluatorCallRecord,
    PreferenceRecord,
    RolloutRecord,
    StepRecord,
)
from .serialization import from_json

T = TypeVar("T")


def from_row(record: type[T], row: sqlite3.Row, **values: Any) -> T:
    """A dataclass from a row: its fields are columns of the row, except those in ``values``."""
    columns = {field.name for field in fields(record)} - values.keys()  # type: ignore[arg-type]
    return record(**{name: row[name] for name in columns}, **values)


def read_episode(connection: sqlite3.Connection, number: int) -> EpisodeRecord | None:
    """The episode of that number; None if there is none."""
    query = """
        SELECT episodes.*, question, gold
        FROM episodes JOIN examples ON examples.id = example_id WHERE number = ?"""
    row = connection.execute(query, (number,)).fetchone()
    if row is None:
        return None

    def select(table: str, order: str) -> sqlite3.Cursor:
        query = f"SELECT * FROM {table} WHERE episode = ? ORDER BY {order}"
        return connection.execute(query, (number,))

    steps = _steps(connection, number)
    evaluator_calls = _evaluator_calls(connection, number)
    effects = _effects(connection, number)
    request_errors = _request_errors(connection, number)
    targets = select("targets", "number")
    preferences = select("preferences", "step, alternative")
    return from_row(
        EpisodeRecord,
        row,
        gold=from_json(row["gold"]),
        result=from_json(row["result"]),
        rewards=tuple(_rewards(connection, number)),
        targets=tuple(Target(target["step"], from_json(target["gold"])) for target in targets),
        steps=tuple(steps.get(0, ())),
        effects=tuple(effects.get(0, ())),
        request_errors=tuple(request_errors.get(0, ())),
        rollouts=tuple(
            from_row(
                RolloutRecord,
                rollout,
                outcome=Outcome(rollout["outcome"]),
                stopped_early=bool(rollout["stopped_early"]),
                result=from_json(rollout["result"]),
                steps=tuple(steps.get(rollout["number"], ())),
                effects=tuple(effects.get(rollout["number"], ())),
                request_errors=tuple(request_errors.get(rollout["number"], ())),
                evaluator_calls=tuple(evaluator_calls.get(rollout["number"], ())),
            )
            for rollout in select("rollouts", "number")
        ),
        preferences=tuple(from_row(PreferenceRecord, preference) for preference in preferences),
    )


def reward_means(connection: sqlite3.Connection, number: int) -> dict[str, float | None]:
    """Each reward's mean over its defined values, as in ``Episode.reward_means``."""
    return mean_by_name(_rewards(connection, number))


def _rewards(connection: sqlite3.Connection, number: int) -> list[RewardEvent]:
    query = "SELECT * FROM rewards WHERE episode = ? ORDER BY number"
    rows = connection.execute(query, (number,))
    return [RewardEvent(row["name"], row["value"], row["steps"]) for row in rows]


def _steps(connection: sqlite3.Connection, number: int) -> dict[int, list[StepRecord]]:
    """The steps of an episode (key 0) and of its rollouts, by rollout."""
    alternatives: dict[int, list[AlternativeRecord]] = {}
    query = "SELECT * FROM alternatives WHERE episode = ? ORDER BY step, number"
    for row in connection.execute(query, (number,)):
        alternative = from_row(AlternativeRecord, row, truncated=bool(row["truncated"]))
        alternatives.setdefault(row["step"], []).append(alternative)

    steps: dict[int, list[StepRecord]] = {}
    query = """
        SELECT steps.*, texts.text FROM steps JOIN texts ON sha256 = prompt
        WHERE episode = ? ORDER BY rollout, step"""
    for row in connection.execute(query, (number,)):
        in_episode = row["rollout"] == 0
        step = from_row(
            StepRecord,
            row,
            index=row["step"],
            prompt=row["text"],
            truncated=bool(row["truncated"]),
            substituted=bool(row["substituted"]),
            detail=from_json(row["detail"]) or {},
            alternatives=tuple(alternatives.get(row["step"], ())) if in_episode else (),
        )
        steps.setdefault(row["rollout"], []).append(step)
    return steps


def _evaluator_calls(
    connection: sqlite3.Connection, number: int
) -> dict[int, list[EvaluatorCallRecord]]:
    """What the evaluators were told about the rollouts of an episode, by rollout."""
    query = """
        SELECT evaluator_calls.*, texts.text FROM evaluator_calls JOIN texts ON sha256 = prompt
        WHERE episode = ? ORDER BY rollout, number"""

    def make(row: sqlite3.Row) -> EvaluatorCallRecord:
        answers = tuple((text, logprob) for text, logprob in from_json(row["answers"]))
        return EvaluatorCallRecord(row["text"], answers, row["dropped_tokens"])

    return _by_rollout(connection.execute(query, (number,)), make)


def _effects(connection: sqlite3.Connection, number: int) -> dict[int, list[EffectRecord]]:
    """The effects of an episode (key 0) and of its rollouts, by rollout."""
    query = "SELECT * FROM effects WHERE episode = ? ORDER BY rollout, number"
    rows = connection.execute(query, (number,))
    return _by_rollout(rows, lambda row: from_row(EffectRecord, row, again=bool(row["again"])))


def _request_errors(connection: sqlite3.Connection, number: int) -> dict[int, list[RequestError]]:
    """The requests of an episode (key 0) and of its rollouts that failed, by rollout."""
    query = "SELECT * FROM request_errors WHERE episode = ? ORDER BY rollout, number"
    rows = connection.execute(query, (number,))
    return _by_rollout(rows, lambda row: from_row(RequestError, row))


def _by_rollout(rows: sqlite3.Cursor, make: Callable[[sqlite3.Row], T]) -> dict[int, list[T]]:
    found: dict[int, list[T]] = {}
    for row in rows:
        found.setdefault(row["rollout"], []).append(make(row))
    return found
