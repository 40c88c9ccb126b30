"""A read-only mount of a folder, which not even root can write to, for another process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_MOUNT = 'mount --bind "$0" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'


def python_with_mount(
    source: Path, mount: Path, script: str, *arguments: object, **more: object
) -> str:
    """The stdout of a Python script that sees ``source`` read-only at ``mount``, an empty folder.

    Skips the test where nothing can be mounted.
    """
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs the programs unshare and mount")
    command = ["unshare", "--mount", "sh", "-c", _MOUNT, str(source), str(mount)]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    done = subprocess.run(
        [*command, sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
