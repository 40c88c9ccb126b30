"""What libraries say at every start is kept quiet, in commands and benchmarks alike."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_trainer_says_nothing() -> None:
    code = "import flowtune_cli.training.loop"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
