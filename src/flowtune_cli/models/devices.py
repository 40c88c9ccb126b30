"""This machine's devices, and how fast they are: for ``flowtune doctor`` and the dtype 'auto'.

It imports torch alone, as the libraries on top of it take many times as long to import.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

FEATURES = ("avx", "amx", "bf16", "i8mm", "sve", "sme")
"""How the processor's features that matter here begin, in torch's naming."""


@dataclass(frozen=True)
class Device:
    """A device that torch can use.

    Args:
        name: as ``model.device`` has it.
        memory: in bytes, 0 if it is the host's.
        dtype: what ``model.dtype = "auto"`` is on it.
    """

    name: str
    description: str
    memory: int = 0
    dtype: str = "float32"


def devices() -> list[Device]:
    """The processor, then the GPUs."""
    threads = f"{torch.get_num_threads()} threads"
    processor = f"{torch.backends.cpu.get_cpu_capability()}, {threads}"
    found = [Device("cpu", processor, 0, dtype_name(faster_dtype(torch.device("cpu"))))]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        name = f"cuda:{index}"
        compute = f"{about.name}, compute capability {about.major}.{about.minor}"
        dtype = dtype_name(faster_dtype(torch.device(name)))
        found.append(Device(name, compute, about.total_memory, dtype))
    return found


def faster_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where it is clearly faster than float32, as its figures are coarser; else float32.

    A GPU reports it. A processor is measured, as its features tell little: AVX512-BF16 multiplies
    matrices at 0.6 times the speed of float32 on one processor and at 4.6 times on another. A whole
    forward pass gains less than its products, so these must be twice as fast.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Without such instructions it is emulated, which is slow even to measure.
        fast = any("bf16" in feature for feature in cpu_features()) and (
            matmul_gflops(torch.bfloat16) >= 2 * matmul_gflops(torch.float32)
        )
    return torch.bfloat16 if fast else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name in settings, such as "float32"."""
    return str(dtype).removeprefix("torch.")


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
    return {dtype_name(dtype): matmul_gflops(dtype, device, size) for dtype in dtypes}


def matmul_gflops(
    dtype: torch.dtype, device: str = "cpu", size: int = 1024, seconds: float = 0.1
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


def peak_gpu_memory() -> int:
    """The bytes that torch has held on this machine's GPUs at most; 0 without any."""
    if not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.max_memory_reserved(n) for n in range(torch.cuda.device_count()))
