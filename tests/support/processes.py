"""Python processes beside the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import flowtune_cli

_PATHS = [Path(__file__).parents[1], Path(flowtune_cli.__file__).parents[1]]


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that can import what the tests can; its stdin and stdout are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, _PATHS))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
