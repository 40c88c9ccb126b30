"""``flowtune train`` as several processes, which are killed, stopped and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory
from support.disturbed import FLOWTUNE, TORCHRUN, start
from support.installed_plugins import Site
from support.runs_compared import assert_same_rows, learned

Run = Callable[..., Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


def assert_same_run(one: str, other: str) -> None:
    assert learned(Path("runs", one)) == learned(Path("runs", other))
    assert_same_rows(Path("runs", one), Path("runs", other))


def test_killed_under_torchrun_it_goes_on_by_itself(disturbed: Site, run: Run) -> None:
    """Its second rank is killed in its third mini-batch, and then rank 0 has a full disk: the whole
    launch starts again, and once more."""
    Path("signal-1").write_text("SIGKILL 3")
    Path("signal-0-after-1").write_text("FULL 1")
    command = (*TORCHRUN, "--max-restarts", "2", "-m", "flowtune_cli", "train", "letters")
    done = start(disturbed, *command)
    assert done.returncode == 0, done.stderr
    assert not list(Path().glob("signal-*"))
    lost = re.findall(r"flowtune: error: rank 1 \(process \d+ on \S+\) is lost", done.stderr)
    assert len(lost) == 1, done.stderr
    full = re.findall(
        r"error: rank 0 \(process .*\): cannot write batch 2 to \S+store", done.stderr
    )
    assert len(full) == 1, done.stderr
    assert done.stderr.count("The newest checkpoint is after 4 episodes.") == 2
    assert done.stderr.count("going on with run 'letters-001'") == 2
    assert [run.name for run in Path("runs").iterdir()] == ["letters-001"]
    assert run("train", "letters", "--name", "whole").code == 0
    assert_same_run("letters-001", "whole")


def test_a_checkpoint_that_the_disk_has_no_room_for(disturbed: Site, run: Run) -> None:
    """The launch starts again from the checkpoint before, and all is as if nothing had been."""
    Path("signal-0").write_text("FULL_FOR_CHECKPOINTS 7")
    command = (*TORCHRUN, "--max-restarts", "1", "-m", "flowtune_cli", "train", "letters")
    done = start(disturbed, *command)
    assert done.returncode == 0, done.stderr
    told = re.findall(
        r"error: rank 0 \(process .*\): the checkpoint \S+ could not be written", done.stderr
    )
    assert len(told) == 1, done.stderr
    assert done.stderr.count("The newest checkpoint is after 4 episodes.") == 1
    assert done.stderr.count("going on with run 'letters-001'") == 1
    assert run("train", "letters", "--name", "whole").code == 0
    assert_same_run("letters-001", "whole")


def test_stopped_on_one_rank_all_stop_and_one_process_goes_on(disturbed: Site, run: Run) -> None:
    Path("signal-1").write_text("SIGTERM 2")
    done = start(disturbed, *FLOWTUNE, "train", "letters", "--name", "a", "--processes", "2")
    assert done.returncode == 130, done.stderr
    assert done.stderr.count("stopped after 2 of 8 episodes") == 1
    assert done.stderr.count("flowtune train --resume a\n") == 1
    assert "Traceback" not in done.stderr
    assert RunDirectory(Path("runs/a")).info.state == "stopped"
    assert run("train", "--resume", "a").code == 0
    assert run("train", "letters", "--name", "whole").code == 0
    assert_same_run("a", "whole")


def test_a_lost_rank_0_is_told_of_by_another(disturbed: Site) -> None:
    Path("signal-0").write_text("SIGKILL 2")
    done = start(disturbed, *FLOWTUNE, "train", "letters", "--name", "a", "--processes", "2")
    assert done.returncode == 1
    assert len(re.findall("flowtune: error: ", done.stderr)) == 1, done.stderr
    assert re.search(r"error: rank 0 \(process \d+ on \S+\) is lost", done.stderr)
    assert RunDirectory(Path("runs/a")).info.state == "interrupted"


def test_ctrl_c_comes_to_all_and_an_error_is_told_once(disturbed: Site) -> None:
    command = (*FLOWTUNE, "train", "letters", "--name", "a", "--processes", "2")
    with subprocess.Popen(
        [*command, "--set", "training.passes=50"],
        env=disturbed.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("2/400 episodes"):
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.count("flowtune train --resume a\n") == 1
    wrong = start(disturbed, *FLOWTUNE, "train", "--resume", "a", "--processes", "2", "--seed", "7")
    assert wrong.returncode == 2
    assert wrong.stderr.count("flowtune: error: ") == 1
    assert wrong.stderr.count("training.seed = 42 in the run, and 7 now") == 1


def test_with_or_resume_the_same_command_begins_a_run_and_goes_on_with_it(
    disturbed: Site, run: Run
) -> None:
    command = ("train", "letters", "--name", "a", "--or-resume", "--limit", "4")
    assert "training run 'a'" in run(*command).err
    again = run(*command)
    assert again.code == 0
    assert "going on with run 'a'" in again.err
    assert run("train", "letters", "--or-resume").code == 2


def test_a_launcher_that_says_otherwise(
    disturbed: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    done = run("train", "letters", "--processes", "2")
    assert done.code == 2
    assert "RANK is not set" in done.err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    done = run("train", "letters")
    assert done.code == 2
    assert "MASTER_ADDR is not set" in done.err
    assert os.environ.get("MASTER_ADDR") is None


@pytest.mark.parametrize(
    "command",
    [
        ("play", "letters"),
        ("check", "letters"),
        ("serve", "--task", "letters"),
        ("export", "a", "--adapters", "out"),
        ("merge", "a", "draft", "out"),
        ("postprocess", "letters", "in.jsonl", "--out", "out.jsonl"),
    ],
)
def test_other_commands_refuse_to_be_started_as_several(
    disturbed: Site, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "h",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    done = run(*command)
    assert done.code == 2
    assert f"'flowtune {command[0]}' runs in one process" in done.err
