"""What this machine computes with, and how fast: for ``flowtune doctor``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""How Linux names the instructions for bfloat16: the first two on x86-64, the last on ARM."""


@dataclass(frozen=True)
class Device:
    """A device that torch can use, as a person names it; memory in bytes, 0 if it is the host's."""

    name: str
    description: str
    memory: int = 0
    native_bfloat16: bool = False


def devices() -> list[Device]:
    """The processor, then the GPUs."""
    flags = cpu_flags()
    native = any(flag in flags for flag in BFLOAT16_FLAGS)
    threads = f"{torch.get_num_threads()} threads"
    found = [Device("cpu", f"{torch.backends.cpu.get_cpu_capability()}, {threads}", 0, native)]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        compute = f"{about.name}, compute capability {about.major}.{about.minor}"
        # Ampere, 8.0, was the first to compute in bfloat16.
        found.append(Device(f"cuda:{index}", compute, about.total_memory, about.major >= 8))
    return found


def cpu_flags() -> frozenset[str]:
    """The processor's features as Linux lists them; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cuda_version() -> str | None:
    """The CUDA that torch was built with; None if it was built without."""
    return torch.version.cuda


def speeds(device: str) -> dict[str, float]:
    """GFLOP/s of matrix products on a device, for each type that a model may be loaded in."""
    size = 4096 if device.startswith("cuda") else 1024
    dtypes = (torch.float32, torch.bfloat16)
    return {str(d).removeprefix("torch."): matmul_gflops(d, device, size) for d in dtypes}


def matmul_gflops(
    dtype: torch.dtype, device: str = "cpu", size: int = 1024, seconds: float = 0.2
) -> float:
    """The speed of a square matrix product in GFLOP/s: the best of those that fit in the time."""
    a, b = torch.rand(2, size, size, device=device).to(dtype)
    best = float("inf")
    _timed(a, b)
    end = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        best = min(best, _timed(a, b))
    return 2 * size**3 / best / 1e9


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start
