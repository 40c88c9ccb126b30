"""The rows of ``flowtune ls runs``: how each run does, how large and how old it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError, unknown_name
from ..runs.directory import RunInfo, list_runs
from .durations import age
from .output import detail, warn
from .sizes import bytes_text, size_of

COLUMNS = ("name", "task", "state", "episodes", "metric", "size", "age", "tags")
SORTS = ("name", "age", "metric", "size", "episodes")

Row = dict[str, Any]


def run_rows(directory: Path, sort: str | None, tag: str | None) -> list[Row]:
    """A row of JSON values for each run, the oldest first unless ``sort`` says otherwise.

    Args:
        sort: one of ``SORTS``: names from a to z, the youngest, or the best, largest or longest
            first. What has no figure comes last.
        tag: only runs that have it.

    Raises:
        UsageError: there is no such order.
    """
    if sort is not None and sort not in SORTS:
        raise unknown_name("order of runs", sort, list(SORTS))
    rows = []
    for run in list_runs(directory):
        if run.problem:
            warn(f"run '{run.name}' cannot be read: {run.problem}")
        if tag is None or tag in run.tags:
            rows.append(_row(run))
    if sort is not None:
        rows.sort(key=lambda row: _key(row, sort))
    return rows


def as_text(row: Row, now: datetime | None = None) -> Mapping[str, str]:
    """A row for people."""
    metric, created = row["metric"], _time(row["created"])
    now = now or datetime.now(timezone.utc)
    return {
        **{name: str(row[name]) for name in ("name", "task", "state", "episodes")},
        "metric": "" if metric is None else _metric_text(metric),
        "size": bytes_text(row["size"]),
        "age": "" if created is None else age((now - created).total_seconds()),
        "tags": ", ".join(row["tags"]),
    }


def _row(run: RunInfo) -> Row:
    names = ("name", "task", "model", "state", "episodes", "created", "path", "problem", "note")
    return {
        **{name: getattr(run, name) for name in names},
        "tags": list(run.tags),
        "metric": _metric(run),
        "size": size_of(run.path),
    }


def _metric(run: RunInfo) -> dict[str, Any] | None:
    from ..runs.directory import RunDirectory
    from ..runs.reader import RunReader, has_data

    store = RunDirectory(run.path).store_path
    try:
        if not has_data(store):
            return None
        with RunReader(store) as reader:
            headline = reader.headline()
    except FlowtuneError as error:  # such as one of another version
        detail(f"run '{run.name}' has no metric here: {error}")
        return None
    return None if headline is None else asdict(headline)


def _key(row: Row, sort: str) -> Any:
    if sort == "name":
        return row["name"]
    if sort == "age":
        created = _time(row["created"])
        return -created.timestamp() if created is not None else float("inf")
    if sort == "metric":
        value = row["metric"] and row["metric"]["value"]
        if value is None:
            return float("inf")
        return value if row["metric"]["lower_is_better"] else -value
    return -row[sort]


def _metric_text(metric: Mapping[str, Any]) -> str:
    text = f"{metric['name']}={_number(metric['value'])}"
    return f"{text} held out" if metric["of"] == "evaluation" else text


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
