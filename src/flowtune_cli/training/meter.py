"""Measures what this process has taken so far."""

from __future__ import annotations

import sys
import time

import psutil

from ..models.devices import peak_gpu_memory
from ..runs.usage import Usage


def used_so_far() -> Usage:
    """What this process has taken since it began."""
    process = psutil.Process()
    times = process.cpu_times()
    processor = times.user + times.system + times.children_user + times.children_system
    seconds = time.time() - process.create_time()
    return Usage(seconds, processor, _peak_memory(), peak_gpu_memory())


def _peak_memory() -> int:
    """In bytes. Windows counts it itself, other systems in units of their own."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
