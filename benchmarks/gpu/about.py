"""The machine: versions, the card, and what it reaches in plain products and copies."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.cards import card
from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from flowtune_cli.models.devices import matmul_gflops

PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "triton"),
    *("huggingface_hub", "pydantic", "bitsandbytes", "parameterfree", "gguf", "typer", "rich"),
    *("textual", "pluggy", "platformdirs", "psutil", "filelock", "numpy", "pytest"),
)


def run(result: Result, options: Options) -> None:
    result.add(python=platform.python_version(), cores=os.cpu_count() or 0)
    result.add(**{name: _version(name) for name in PACKAGES})
    with result.step("flowtune"):
        from flowtune_cli.registry import load_registry

        registry = load_registry()
        result.add(
            tasks=", ".join(sorted(registry.entries("task"))),
            models=", ".join(sorted(registry.entries("model"))),
        )
    if options.device == "cuda":
        with result.step("card"):
            about = torch.cuda.get_device_properties(0)
            result.add(
                card=about.name,
                known=card(about.name) is not None,
                memory_gb=round(about.total_memory / 1e9, 1),
                free_gb=round(torch.cuda.mem_get_info()[0] / 1e9, 1),
                compute_capability=f"{about.major}.{about.minor}",
                cuda=torch.version.cuda,
            )
        with result.step("driver"):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
            result.add(driver=done.stdout.strip())
    size = 256 if options.tiny else 8192
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        with result.step(f"products in {name}"):
            gflops = matmul_gflops(dtype, options.device, size, 0.5)
            result.add(**{f"products_{name}_tflops": round(gflops / 1e3, 2)})
    with result.step("copy"):
        result.add(copy_tb_per_second=round(_copy(options) / 1e12, 3))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _copy(options: Options) -> float:
    """Bytes a second that a copy reads and writes, the best of five."""
    size = 1 << (20 if options.tiny else 32)
    source = torch.ones(size, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        synchronize(options.device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(options.device)
        best = min(best, time.perf_counter() - start)
    return 2 * source.numel() / best


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
