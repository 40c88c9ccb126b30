"""A store of version 1 is read as if it had totals, and gets them when its run goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.runs import older
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import Store
from flowtune_cli.runs.stored import Order
from support.random_batches import played, question_of
from support.version_1 import downgrade


def write(path: Path, first: int, last: int) -> None:
    with Store(path, question_of) as store:
        for record in list(played(last))[first:]:
            store.write_batch(record)


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows by table, and what made tables and indexes; floats as they are compared."""
    connection = sqlite3.connect(path)
    tables = ["sqlite_master"]
    tables += [
        r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table in tables:
        columns = "type, name, sql" if table == "sqlite_master" else "*"
        found[table] = sorted(
            (
                tuple(pytest.approx(v) if isinstance(v, float) else v for v in row)
                for row in connection.execute(f"SELECT {columns} FROM {table}")
            ),
            key=lambda row: [str(value) for value in row],
        )
    connection.close()
    return found


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.sqlite"
    write(path, 0, 12)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    write(path, 0, 12)
    downgrade(path)
    return path


def test_it_is_read_like_a_new_one_and_stays_as_it_is(new: Path, old: Path) -> None:
    before = old.read_bytes()
    with RunReader(new) as one, RunReader(old) as other:
        assert other.counts() == one.counts()
        assert other.timings() == one.timings()
        assert other.episodes(limit=99) == one.episodes(limit=99)
        assert other.metrics(points=5) == one.metrics(points=5)
        assert other.reference_moves(4) == one.reference_moves(4) != []
        by_gain = Order("gain", descending=True)
        assert other.numbers(order=by_gain) == one.numbers(order=by_gain)
        assert other.episode(7) == one.episode(7)
        for a, b in zip(other.node_summary(), one.node_summary(), strict=True):
            assert vars(a) == {**vars(b), "mean_margin": pytest.approx(b.mean_margin)}
    assert old.read_bytes() == before


def test_going_on_gives_it_the_totals_that_it_would_have(new: Path, old: Path) -> None:
    with Store(old, question_of):
        pass
    assert rows(old) == rows(new)
    write(new, 12, 16)
    write(old, 12, 16)
    assert rows(old) == rows(new)


def test_an_upgrade_that_fails_leaves_it_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(old)
    monkeypatch.setitem(older._VIEWS, "node_totals", "SELECT 1 FROM nothing")
    with pytest.raises(FlowtuneError, match=r"cannot open .*old\.sqlite"):
        Store(old, question_of)
    assert rows(old) == before


def test_one_without_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    write(path, 0, 0)
    downgrade(path)
    with RunReader(path) as reader:
        assert (reader.counts().episodes, reader.node_summary(), reader.timings()) == (0, [], {})
    write(path, 0, 2)
    with RunReader(path) as reader:
        assert reader.counts().episodes == 6
