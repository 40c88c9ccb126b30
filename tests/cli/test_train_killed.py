"""``flowtune train`` as a process of its own, which is killed, interrupted and rivalled."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site
from support.runs_compared import learned, rows

Run = Callable[..., Any]
START = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"
LONG = ("--set", "training.passes=3")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


@contextmanager
def training(site: Site, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that trains the run 'a', as soon as its first batch is done."""
    command = [sys.executable, "-c", START, "train", "letters", "--name", "a", *LONG, *arguments]
    with subprocess.Popen(
        command,
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("2/24 episodes"):
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("more", [(), ("--set", "training.evaluate.every=4")])
def test_killed_at_any_moment_it_goes_on_as_if_never_killed(
    letters: Site, run: Run, more: tuple[str, ...]
) -> None:
    assert run("train", "letters", "--name", "whole", *LONG, *more).code == 0
    with training(letters, *more) as process:
        delay = random.uniform(0, 1.2)
        time.sleep(delay)
        process.kill()
    assert RunDirectory(Path("runs/a")).info.state in ("interrupted", "finished")
    done = run("train", "--resume", "a")
    assert done.code == 0, done.err
    assert learned(Path("runs/a")) == learned(Path("runs/whole")), f"killed after {delay} s"
    assert rows(Path("runs/a")) == rows(Path("runs/whole")), f"killed after {delay} s"


def test_interrupted_it_says_how_to_go_on(letters: Site, run: Run) -> None:
    with training(letters) as process:
        process.send_signal(signal.SIGSTOP)  # or it might end before its rival begins
        rival = run("train", "--resume", "a")
        assert rival.code == 2
        assert f"in use by process {process.pid}" in rival.err
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "stopping after the current step; press Ctrl-C again to stop at once\n" in err
    assert err.endswith("Resume with:\n  flowtune train --resume a\n")
    assert RunDirectory(Path("runs/a")).info.state == "stopped"
    assert run("train", "--resume", "a").code == 0
    assert run("train", "letters", "--name", "whole", *LONG).code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    assert rows(Path("runs/a")) == rows(Path("runs/whole"))
