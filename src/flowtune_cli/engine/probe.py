"""What this machine computes with, and how fast: for ``flowtune doctor`` and for the dtype 'auto'.

This imports torch and nothing that stands on it, which would take many times as long.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

FEATURES = ("avx", "amx", "bf16", "i8mm", "sve", "sme")
"""How the processor's features that matter here begin, in torch's naming."""


@dataclass(frozen=True)
class Device:
    """A device that torch can use, as a person names it; memory in bytes, 0 if it is the host's."""

    name: str
    description: str
    memory: int = 0
    bfloat16_units: bool = False


def devices() -> list[Device]:
    """The processor, then the GPUs."""
    threads = f"{torch.get_num_threads()} threads"
    processor = f"{torch.backends.cpu.get_cpu_capability()}, {threads}"
    found = [Device("cpu", processor, 0, has_bfloat16_units(torch.device("cpu")))]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        name = f"cuda:{index}"
        compute = f"{about.name}, compute capability {about.major}.{about.minor}"
        units = has_bfloat16_units(torch.device(name))
        found.append(Device(name, compute, about.total_memory, units))
    return found


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether the device has matrix units for bfloat16, so that it is faster than float32.

    Vector instructions alone (AVX512-BF16) were slower than float32, in matrix products as in
    whole forward passes: on x86-64 it takes AMX. On ARM ``bf16`` with ``i8mm`` means BFMMLA;
    macOS is left out, where float32 has Apple's own matrix units.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    arm = sys.platform != "darwin" and has.get("bf16", False) and has.get("i8mm", False)
    return bool(has.get("amx_bf16", False) or arm)


def cpu_features() -> list[str]:
    """The processor's vector and matrix instructions, as torch names them."""
    return sorted(
        name
        for name, value in torch.cpu.get_capabilities().items()
        if value is True and name.startswith(FEATURES)
    )


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
