"""Stores on a read-only mount: of a finished run, and what a killed one leaves beside its store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import flowtune_cli
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import Store
from report.stored_runs import sums_run
from support.random_batches import played, question_of
from support.read_only_mount import python_with_mount

READ = """
import sys
from pathlib import Path
from flowtune_cli.runs.reader import RunReader, has_data
path = Path(sys.argv[1])
try:
    path.with_name("x").touch()
except OSError:
    pass
else:
    sys.exit("the mount can be written")
assert has_data(path)
with RunReader(path) as reader:
    reader.changes()
    print(reader.counts().batches, len(list(reader.stream_episodes())))
"""


def read(store: Path, mount: Path) -> list[int]:
    mount.mkdir(exist_ok=True)
    paths = {**os.environ, "PYTHONPATH": str(Path(flowtune_cli.__file__).parents[1])}
    out = python_with_mount(store.parent, mount, READ, mount / store.name, env=paths)
    return [int(number) for number in out.split()]


def counts(store: Path) -> list[int]:
    with RunReader(store) as reader:
        return [reader.counts().batches, len(list(reader.stream_episodes()))]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The store of a run that is killed: its last batches are in the log alone."""
    records = list(played(6))
    run, copy = tmp_path / "store.sqlite", tmp_path / "killed" / "store.sqlite"
    copy.parent.mkdir()
    with Store(run, question_of) as store:
        for record in records[:3]:
            store.write_batch(record)
    with Store(run, question_of) as store:
        for record in records[3:]:
            store.write_batch(record)
        for file in tmp_path.glob("store.sqlite*"):
            shutil.copyfile(file, copy.with_name(file.name))
    assert {file.name for file in copy.parent.iterdir()} == {
        "store.sqlite",
        "store.sqlite-shm",
        "store.sqlite-wal",
    }
    return copy


def test_a_finished_run(tmp_path: Path) -> None:
    store = sums_run(tmp_path).store_path
    assert sorted(store.parent.glob("store.sqlite*")) == [store]
    assert read(store, tmp_path / "50% of #1?") == counts(store)


@pytest.mark.parametrize("lost", [None, "store.sqlite-shm"])
def test_a_killed_run_is_read_with_its_log(killed: Path, tmp_path: Path, lost: str | None) -> None:
    if lost is not None:
        killed.with_name(lost).unlink()
    found = read(killed, tmp_path / "mount")
    assert found[0] == 6
    assert found == counts(killed)


def test_an_empty_log(killed: Path, tmp_path: Path) -> None:
    killed.with_name("store.sqlite-shm").unlink()
    os.truncate(killed.with_name("store.sqlite-wal"), 0)
    assert read(killed, tmp_path / "mount")[0] == 3
