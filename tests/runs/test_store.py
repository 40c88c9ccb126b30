"""The store holds whole batches, whatever happens, and a rerun writes the same rows again."""

from __future__ import annotations

import re
import signal
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode, RewardEvent
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runs import schema
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import BatchRecord, Store, UpdateRecord, check_version
from support.processes import python
from support.random_batches import batches, dump, played, question_of


def write(path: Path, records: Iterable[BatchRecord]) -> None:
    with Store(path, question_of) as store:
        for record in records:
            store.write_batch(record)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@settings(max_examples=20)
@given(st.data(), batches())
def test_truncating_leaves_what_was_there_and_a_rerun_writes_the_same(data, records):
    kept = data.draw(st.integers(0, len(records)))
    with tempfile.TemporaryDirectory() as directory:
        path, other = Path(directory, "a.sqlite"), Path(directory, "b.sqlite")
        write(path, records)
        whole = dump(path)
        write(other, records[:kept])
        with Store(path, question_of) as store:
            store.truncate(kept)
            assert (store.batches, store.episodes) == (kept, sum(map(_size, records[:kept])))
        assert dump(path) == dump(other)
        write(path, (replace(r, timings={"play": 99.0}) for r in records[kept:]))
        assert dump(path) == whole


def _size(record: BatchRecord) -> int:
    return len(record.traces)


def test_truncating_a_real_run_and_running_on_gives_the_same_rows(path):
    records = list(played(8))
    write(path, records)
    whole = dump(path)
    assert len(whole) > 200
    with Store(path, question_of) as store:
        store.truncate(4)
        assert (store.batches, store.episodes) == (4, 12)
        for record in list(played(8))[4:]:
            store.write_batch(record)
    assert dump(path) == whole


def test_truncating_goes_through_every_table(path):
    connection = sqlite3.connect(":memory:")
    schema.create(connection)
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    tables = {name for (name,) in connection.execute(query)}
    by_batch = {*schema.BY_BATCH, *schema.BY_EPISODE, *schema.AFTER_BATCH}
    assert tables == {"meta", "nodes", *by_batch}


def test_truncating_to_more_than_is_stored_says_that_something_is_lost(path):
    with Store(path, question_of) as store:
        store.write_batch(next(played(1)))
        store.truncate(1)
        with pytest.raises(FlowtuneError, match=r"has 1 batches.*after 3.*earlier checkpoint"):
            store.truncate(3)


def test_a_batch_out_of_turn_is_refused(path):
    first, second = played(2)
    with Store(path, question_of) as store:
        with pytest.raises(ValueError, match="got batch 1, expected 0"):
            store.write_batch(second)
        store.write_batch(first)
        with pytest.raises(ValueError, match="got episode 7, expected 3"):
            store.write_batch(replace(second, position=7))
        store.write_batch(second)


def test_prompts_are_stored_once(path):
    (record,) = played(1)
    episode = next(t.episode for t in record.traces if len(t.episode.steps) == 3)
    write(path, [replace(record, traces=[Trace(episode.example, episode)] * 5)])
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM texts").fetchone() == (3,)
    assert connection.execute("SELECT count(*) FROM steps").fetchone() == (15,)


def test_replayed_steps_are_not_repeated(path):
    write(path, played(4))
    connection = sqlite3.connect(path)
    query = """
        SELECT min(steps.step) - rollouts.step, sum(substituted)
        FROM steps JOIN rollouts USING (episode) WHERE rollout = number
        GROUP BY episode, number"""
    assert set(connection.execute(query).fetchall()) == {(0, 1)}


@pytest.mark.parametrize(
    "change",
    [
        {"updates": [UpdateRecord("draw", 0, 1, 1, 1, 0, loss=float("nan"))]},
        {"timings": {"play": float("nan")}},
    ],
)
def test_nan_is_refused_and_nothing_of_the_batch_is_stored(path, change):
    (record,) = played(1)
    with Store(path, question_of) as store:
        with pytest.raises(FlowtuneError, match="NaN"):
            store.write_batch(replace(record, **change))
        assert (store.batches, store.episodes) == (0, 0)
        store.write_batch(record)


def test_a_reward_of_nan_is_refused(path):
    episode = Episode(Example("e"), {})
    episode.rewards.append(RewardEvent("f1", float("nan"), 0))
    record = BatchRecord(0, [Trace(Example("e"), episode)], 0, {})
    with (
        Store(path, question_of) as store,
        pytest.raises(FlowtuneError, match=r"'value' of rewards.*'f1'"),
    ):
        store.write_batch(record)


def test_an_error_in_the_middle_of_a_batch_leaves_nothing_of_it(path):
    first, second = played(2)

    def breaks(example: Example) -> str:
        if example.id == second.traces[-1].example.id:
            raise RuntimeError("no question")
        return "?"

    with Store(path, breaks) as store:
        store.write_batch(first)
        before = dump(path)
        with pytest.raises(RuntimeError, match="no question"):
            store.write_batch(second)
        assert dump(path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from flowtune_cli.runs.store import Store, check_version
from support.processes import python
from support.random_batches import played, question_of

def killed(example):
    if example.id == "e16":
        os.kill(os.getpid(), signal.SIGKILL)
    return question_of(example)

store = Store(Path(sys.argv[1]), killed)
for record in played(9):
    store.write_batch(record)
"""


def test_a_writer_that_is_killed_leaves_whole_batches(path, tmp_path):
    with python(KILLED, path) as writer:
        assert writer.wait(600) == -signal.SIGKILL
    # Example e16 is the second of batch 5: the first one's rows were written already.
    with RunReader(path) as reader:
        assert reader.counts().batches == 5
    with Store(path, question_of) as store:
        assert (store.batches, store.episodes) == (5, 15)
    write(tmp_path / "other.sqlite", played(5))
    assert dump(path) == dump(tmp_path / "other.sqlite")


STEADY = """
import sys
from pathlib import Path
from flowtune_cli.runs.store import Store, check_version
from support.processes import python
from support.random_batches import played, question_of

with Store(Path(sys.argv[1]), question_of) as store:
    print("open", flush=True)
    for number, record in enumerate(played(int(sys.argv[2]))):
        if number % 5 == 0:
            sys.stdin.readline()
        store.write_batch(record)
    print("written", flush=True)
    sys.stdin.readline()
"""


def test_a_reader_sees_whole_batches_while_another_process_writes(path):
    with python(STEADY, path, 60) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "open\n"
        seen, allowed = [0], 0
        with RunReader(path) as reader:
            while seen[-1] < 60:
                if seen[-1] == allowed:  # all that was written so far: the writer waits for a line
                    allowed += 5
                    writer.stdin.write("\n")
                    writer.stdin.flush()
                counts = reader.counts()
                assert counts.episodes == 3 * counts.batches
                seen.append(counts.batches)
                if counts.episodes:
                    (summary,) = reader.summaries([counts.episodes - 1])
                    episode = reader.episode(summary.number)
                    assert len(episode.steps) == summary.steps > 0
                    assert len(episode.rollouts) == summary.rollouts
                    assert len(reader.metrics()["high"]) >= counts.batches
            assert seen == sorted(seen)
            assert {*range(0, 61, 5)} <= {*seen}
        writer.communicate("\n", timeout=600)
    assert not path.with_name("store.sqlite-wal").exists()


def test_a_reader_in_the_middle_of_reading_keeps_nobody_from_writing(path):
    first, second = played(2)
    with Store(path, question_of) as store:
        store.write_batch(first)
        store._connection.execute("PRAGMA busy_timeout = 0")
        with RunReader(path) as reader, reader.snapshot() as moment:
            count = "SELECT count(*) FROM episodes"
            assert moment.execute(count).fetchone()[0] == 3
            store.write_batch(second)
            assert moment.execute(count).fetchone()[0] == 3
        assert store.episodes == 6


FULL = """
import resource, sys
from pathlib import Path
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.runs.store import Store, check_version
from support.processes import python
from support.random_batches import played, question_of

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with Store(Path(sys.argv[1]), question_of) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    for record in played(200):
        try:
            store.write_batch(record)
        except FlowtuneError as error:
            print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert store.batches == record.batch > 1
            store.write_batch(record)
            print(store.batches)
            break
"""


def test_a_file_that_cannot_grow_is_told_and_can_be_gone_on_with(path, tmp_path):
    out, _ = python(FULL, path).communicate(timeout=600)
    message, number = out.splitlines()
    assert re.search(r"cannot write batch \d+ to .*store\.sqlite: .*disk.*full", message)
    assert "--resume" in message
    write(tmp_path / "other.sqlite", played(int(number)))
    assert dump(path) == dump(tmp_path / "other.sqlite")


def test_a_full_disk_is_told(path):
    first, second = played(2, size=8)
    with Store(path, question_of) as store:
        store.write_batch(first)
        store._connection.execute("PRAGMA max_page_count = 1")  # raised to the pages there are
        with pytest.raises(
            FlowtuneError, match=r"batch 1 to .*store.sqlite: .* is full.*Free some space"
        ):
            store.write_batch(second)
        assert store.batches == 1


def test_a_store_that_another_process_writes_is_told(path):
    with Store(path, question_of) as store, sqlite3.connect(path) as other:
        store._connection.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FlowtuneError, match=r"locked.*Another process"):
            store.write_batch(next(played(1)))


def test_a_file_that_is_no_store_is_refused(path, tmp_path):
    path.write_text("This is a letter to my aunt, and long enough to look like a database." * 99)
    with pytest.raises(FlowtuneError, match=r"store\.sqlite: file is not a database"):
        Store(path, question_of)
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(UsageError, match=r"other\.sqlite is a database, but not a run's store"):
        Store(tmp_path / "other.sqlite", question_of)
    with pytest.raises(FlowtuneError, match=r"cannot open .*must exist and be writable"):
        Store(tmp_path / "nowhere" / "store.sqlite", question_of)


@pytest.mark.parametrize(("version", "kind"), [(1, "an older"), (99, "a newer")])
def test_a_store_of_another_version_is_refused(path, version, kind):
    write(path, played(1))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    for opened in (lambda: Store(path, question_of), lambda: RunReader(path)):
        match = f"{kind} flowtune: .*version {version}.*reads version {schema.SCHEMA_VERSION}"
        with pytest.raises(UsageError, match=match):
            opened()


def test_a_store_that_is_missing_or_empty_can_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    check_version(path)
    path.touch()
    check_version(path)
    path.write_text("no database, and long enough to be seen as none" * 20)
    with pytest.raises(FlowtuneError, match="not a database"):
        check_version(path)
