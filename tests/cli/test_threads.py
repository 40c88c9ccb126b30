"""Threads that wait for each other sleep soon, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowtune_cli.cli import main, threads

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)


def test_the_command_sets_it() -> None:
    assert main.main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "2000"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    threads.spin_briefly()
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
def test_the_openmp_of_torch_takes_it() -> None:
    code = (
        "from flowtune_cli.cli.threads import spin_briefly; spin_briefly(); import os;"
        " os.environ['OMP_DISPLAY_ENV'] = 'VERBOSE'; import torch"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '2000'" in ran.stderr
