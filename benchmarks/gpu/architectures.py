"""Tiny models of unlike architectures, proved and examined on the device, in two dtypes.

What is examined is what tests/engine/test_architectures.py examines: decoding, scoring and one
gradient against the model's own forward. Each pair is a job of its own, in several processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options

NAMES = (
    *("bloom", "deepseek_v3", "gemma2", "gpt2", "hyperclovax", "jamba", "llama", "mamba"),
    *("mistral", "mistral-wide", "mixtral", "mpt", "nemotron", "phi3", "phi3-longrope"),
    *("qwen2", "qwen3", "qwen3_moe", "qwen3_next"),
)
DTYPES = ("float32", "bfloat16")
PROCESSES = 8


def run(result: Result, options: Options) -> None:
    names = ("llama", "gemma2") if options.tiny else NAMES
    jobs = [(name, dtype, options.device) for name in names for dtype in DTYPES]
    rows: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        rows.append({key: value for key, value in row.items() if key != "error"})
        rows.sort(key=lambda row: (row["model"], row["dtype"]))
        result.add(architectures=rows)
        if row["error"]:
            result.fail(f"{row['model']} in {row['dtype']}", row["error"])

    if options.tiny:
        for job in jobs:
            note(examined(*job))
        return
    context = multiprocessing.get_context("spawn")
    workers = min(PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for done in as_completed([pool.submit(examined, *job) for job in jobs]):
            note(done.result())


def examined(name: str, dtype: str, device: str) -> dict[str, Any]:
    """How a tiny model is run, and what is wrong with that."""
    import torch

    from support.architectures import make_architecture
    from support.examined import examine

    start = time.perf_counter()
    row: dict[str, Any] = {"model": name, "dtype": dtype, "run by": "", "slower because": ""}
    error = ""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_architecture(name, dtype=getattr(torch, dtype), device=device)
            found = examine(model)
        row["run by"] = found.paths.text if found.paths else "refused"
        row["slower because"] = "; ".join(found.notes) or found.refused
        error = "\n".join([*found.faults, found.refused]).strip()
    except Exception:
        error = traceback.format_exc()
    finally:
        logging.disable(logging.NOTSET)
    return {
        **row,
        "faults": len(error.splitlines()) if error else 0,
        "seconds": round(time.perf_counter() - start, 1),
        "error": error,
    }
