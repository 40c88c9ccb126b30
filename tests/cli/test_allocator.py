"""Memory that is freed is kept for what comes next."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from flowtune_cli.cli import allocator

GLIBC = platform.libc_ver()[0] == "glibc"

# 20 blocks of 48 MB, one after the other: anew, each of their 12,000 pages is cleared on first use.
PAGES_CLEARED = """
import resource
from flowtune_cli.cli.allocator import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
filled = bytes(1) * 48_000_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(filled)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_cleared(kept: bool) -> int:
    code = PAGES_CLEARED.format(kept=kept)
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(ran.stdout)


@pytest.mark.skipif(not GLIBC, reason="this C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    assert pages_cleared(kept=True) < pages_cleared(kept=False) / 10


@pytest.mark.skipif(not GLIBC, reason="this C library is not glibc")
def test_the_program_keeps_freed_memory() -> None:
    code = PAGES_CLEARED.format(kept=False).replace(
        "filled", "from flowtune_cli.cli.main import main\nmain(['--version'])\nfilled", 1
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(ran.stdout.split()[-1]) < pages_cleared(kept=False) / 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("nothing is to be loaded"))
    assert not allocator.keep_freed_memory()
