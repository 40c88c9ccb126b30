"""``flowtune train`` on an executable, killed while its programs run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site
from support.program_files import ASK, REWARD, script, write_data

START = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"

# It leaves a child behind, and is slow enough to be met running.
PROGRAM = (
    ASK
    + """
import subprocess, time
subprocess.Popen(["sleep", "100"])
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
example = json.load(sys.stdin)
draft = ask("draft", example["question"])
time.sleep(0.3)
print(json.dumps(draft))
"""
)

SETTINGS = """
[training]
batch_size = 2
save_every = 2
[adapter]
rank = 2
[tasks.flow]
program = "{command}"
data = "d.jsonl"
reward = "rewards.py:score"
gold = ["answer"]
[tasks.flow.nodes.draft]
"""


def groups(folder: Path) -> set[int]:
    """The process groups of all programs that have begun."""
    path = folder / "pids"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def alive(numbers: set[int]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and _group(process.pid) in numbers:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _group(pid: int) -> int:
    import os

    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.slow
def test_killed_it_leaves_no_program_and_goes_on(
    letters: Site, tmp_path: Path, run: Callable[..., Any]
) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    write_data(tmp_path / "d.jsonl", 4)
    command = script(tmp_path / "flow.py", PROGRAM)
    (tmp_path / "flowtune.toml").write_text(SETTINGS.format(command=command))
    train = [sys.executable, "-c", START, "train", "flow", "--name", "a"]
    with subprocess.Popen(
        train, env=letters.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not alive(groups(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alive(groups(tmp_path))
        process.kill()
    deadline = time.monotonic() + 5
    while alive(groups(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(groups(tmp_path))

    done = run("train", "--resume", "a")
    assert done.code == 0, done.err
    with RunReader(RunDirectory(Path("runs/a")).store_path) as reader:
        counts = reader.counts()
    assert (counts.episodes, counts.failed) == (4, 0)
    assert not alive(groups(tmp_path))
