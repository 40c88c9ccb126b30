"""The same tiny training twice, in each dtype: are the adapters the same, to the bit?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.testing import make_tiny_model

DTYPES = ("float32", "bfloat16")


def run(result: Result, options: Options) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "model")
        for dtype in DTYPES:
            with result.step(dtype):
                settings = ModelSettings.model_validate(
                    {"name": str(model), "device": options.device, "dtype": dtype}
                )
                count = 2 if options.tiny else 12
                first, second = (
                    _train(settings, Path(folder), f"{dtype}-{number}", count) for number in (1, 2)
                )
                differing = {
                    name: difference
                    for name in first
                    if (difference := _difference(first[name], second[name]))
                }
                rows.append(
                    {
                        "dtype": dtype,
                        "episodes": count,
                        "adapters": len(first),
                        "differing": len(differing),
                        "largest difference": max(differing.values(), default=0.0),
                    }
                )
                result.add(trainings=rows)
                if differing:
                    result.fail(f"{dtype}, twice", f"not the same adapters: {differing}")


def _train(settings: ModelSettings, parent: Path, name: str, count: int) -> dict[str, Any]:
    from support.tiny_training import Run, adapters_of

    trainer = Run(settings, parent, name, count=count, batch_size=4).train()
    return adapters_of(trainer)


def _difference(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    return max(
        (float((a - b).abs().max()) for a, b in zip(first, second, strict=True)), default=0.0
    )
