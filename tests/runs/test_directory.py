"""A run directory is made whole, once, and is worked in by one process at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.runs.directory import RunDirectory, list_runs
from flowtune_cli.runs.lock import try_lock
from support.processes import python

SETTINGS = {"settings": {"seed": 42, "word": "süß\ud800"}, "origins": {"seed": "flowtune.toml"}}


def make(parent: Path, name: str | None = None, task: str = "hopqa") -> RunDirectory:
    return RunDirectory.create(parent, name, task=task, model="m", settings=SETTINGS)


def test_a_new_run_says_what_it_is(tmp_path):
    run = make(tmp_path / "runs", "first")
    assert run.path == tmp_path / "runs" / "first"
    assert {file.name for file in run.path.iterdir()} == {
        "run.json",
        "settings.json",
        "examples.jsonl",
        "checkpoints",
        "lock",
    }
    assert run.checkpoints.is_dir()
    assert run.store_path == run.path / "store.sqlite"
    assert run.settings == SETTINGS
    with run.lock():
        info = run.info
    assert (info.name, info.task, info.model) == ("first", "hopqa", "m")
    assert (info.state, info.episodes) == ("training", 0)
    assert datetime.fromisoformat(info.created).utcoffset() is not None
    assert {"python", "torch", "transformers", "peft"} <= info.versions.keys()
    assert info.resume == f"flowtune train --resume {run.path.absolute()}"
    assert list((tmp_path / "runs").iterdir()) == [run.path], "nothing is left beside it"


def test_names_count_up(tmp_path):
    names = [make(tmp_path, task=task).path.name for task in ("hopqa", "hopqa", "my task")]
    assert names == ["hopqa-001", "hopqa-002", "my-task-001"]
    (tmp_path / "hopqa-041").mkdir()
    assert make(tmp_path).path.name == "hopqa-042"


def test_a_name_that_is_taken_is_refused_and_left_alone(tmp_path):
    run = make(tmp_path, "a-b")
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"'a-b' already exists in .*--resume a-b.*another name"):
        make(tmp_path, "a-b", task="other")
    assert (run.path / "run.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [run.path]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"'empty' already exists"):
        make(tmp_path, "empty")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "-x", "a b", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be the name of a run"):
        make(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_not_json_leave_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        RunDirectory.create(tmp_path, task="t", model="m", settings={"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_told(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(FlowtuneError, match=r"cannot create a run in .*runs"):
        make(tmp_path / "runs")


CREATOR = """
import sys
from pathlib import Path
from flowtune_cli.runs.directory import RunDirectory

print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    run = RunDirectory.create(Path(sys.argv[1]), task="hopqa", model=sys.argv[2], settings={})
    print(run.path.name, flush=True)
"""


def test_two_processes_never_get_the_same_name(tmp_path):
    creators = [python(CREATOR, tmp_path, i) for i in range(2)]
    for creator in creators:
        assert creator.stdout is not None
        assert creator.stdout.readline() == "ready\n"
    for creator in creators:
        assert creator.stdin is not None
        creator.stdin.write("\n")
        creator.stdin.flush()
    names = [creator.communicate(timeout=600)[0].split() for creator in creators]
    assert sorted(names[0] + names[1]) == [f"hopqa-{i:03}" for i in range(1, 31)]
    for i, of_creator in enumerate(names):
        for name in of_creator:
            assert RunDirectory.open(name, tmp_path).info.model == str(i)


def test_a_run_is_opened_by_name_or_path(tmp_path, monkeypatch):
    run = make(tmp_path / "runs", "mine")
    assert RunDirectory.open("mine", tmp_path / "runs").path == run.path
    assert RunDirectory.open(run.path, tmp_path / "elsewhere").path == run.path
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.open("runs/mine", Path("elsewhere")).info.name == "mine"


def test_a_run_that_is_not_there_is_told_with_those_that_are(tmp_path):
    make(tmp_path, "hopqa-001")
    make(tmp_path, "fever")
    message = r"unknown run 'hopqa-01'. Did you mean 'hopqa-001'\? Known: fever, hopqa-001\."
    with pytest.raises(UsageError, match=message) as error:
        RunDirectory.open("hopqa-01", tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UsageError, match="Known: none"):
        RunDirectory.open("x", tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    with pytest.raises(UsageError, match=r"notes is not a run: it has no run\.json"):
        RunDirectory.open("notes", tmp_path)


def test_updates_change_what_they_name(tmp_path):
    run = make(tmp_path, "a")
    before = run.info
    run.update(state="stopped", episodes=16)
    run.update(episodes=24)
    info = run.info
    assert (info.state, info.episodes) == ("stopped", 24)
    assert (info.created, info.versions, info.task) == (
        before.created,
        before.versions,
        before.task,
    )
    with pytest.raises(ValueError, match="'interrupted' is not one of the states"):
        run.update(state="interrupted")


def test_an_update_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    run = make(tmp_path, "a")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FlowtuneError, match=r"cannot write .*run\.json: No space left"):
        run.update(episodes=5)
    assert run.info.episodes == 0
    assert not [file for file in run.path.iterdir() if file.name.endswith(".tmp")]


HOLDER = """
import sys
from pathlib import Path
from flowtune_cli.runs.directory import RunDirectory

with RunDirectory(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return make(tmp_path, "a")


@pytest.fixture
def holder(run) -> Iterator[subprocess.Popen[str]]:
    with python(HOLDER, run.path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_run_in_use_says_by_whom(run, holder):
    assert run.info.state == "training"
    message = rf"run 'a' .*in use by process {holder.pid} on {re.escape(socket.gethostname())}"
    with pytest.raises(UsageError, match=message), run.lock():
        pass
    holder.communicate("\n", timeout=600)
    with run.lock():
        assert run.info.state == "training"
    assert run.info.state == "interrupted"


def test_the_lock_dies_with_its_process(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(600)
    assert run.info.state == "interrupted"
    with run.lock():
        pass


def test_looking_at_a_run_does_not_keep_it_from_being_locked(run):
    looking = os.open(run.path / "lock", os.O_RDONLY)
    assert try_lock(looking, shared=True)
    assert run.info.state == "interrupted", "two may look at once"
    timer = threading.Timer(0.05, os.close, [looking])
    timer.start()
    with run.lock():
        timer.join()


def test_within_one_process_too_a_run_is_locked_once(run):
    with run.lock(), pytest.raises(UsageError, match=f"process {os.getpid()}"), run.lock():
        pass


def test_the_list_tells_the_state_of_every_run(tmp_path, run, holder):
    make(tmp_path, "b").update(state="finished", episodes=8)
    make(tmp_path, "c")
    broken = make(tmp_path, "d").path / "run.json"
    broken.write_text('{"name": "d"')
    lacking = make(tmp_path, "e").path / "run.json"
    lacking.write_text(json.dumps({"name": "e", "task": "t"}))
    (tmp_path / ".new-1").mkdir()
    (tmp_path / ".new-1" / "run.json").write_text("{}")
    (tmp_path / "notes.txt").touch()
    found = {info.name: info for info in list_runs(tmp_path)}
    assert {name: info.state for name, info in found.items()} == {
        "a": "training",
        "b": "finished",
        "c": "interrupted",
        "d": "unreadable",
        "e": "unreadable",
    }
    assert found["b"].episodes == 8
    assert str(broken) in found["d"].problem
    assert "lacks model, state" in found["e"].problem
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_is_discarded_and_its_name_is_free(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "a", task="t", model="m", settings={})
    with run.lock():
        run.discard()
    assert list(tmp_path.iterdir()) == []
    RunDirectory.create(tmp_path, "a", task="t", model="m", settings={})


def test_a_launch_finds_the_newest_run_that_it_has_begun(tmp_path: Path) -> None:
    about = {"task": "qa", "model": "small", "settings": {}}
    assert RunDirectory.of_launch(tmp_path / "none", "job") is None
    for name, launch in (("a", "job"), ("b", "job"), ("c", "other"), ("d", "")):
        RunDirectory.create(tmp_path, name, **about, launch=launch)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    found = RunDirectory.of_launch(tmp_path, "job")
    assert found is not None
    assert found.path == tmp_path / "b"
    assert RunDirectory.of_launch(tmp_path, "") is None
