"""4-bit weights by bitsandbytes: the bundled model loaded, played and trained for a mini-batch."""

from __future__ import annotations

import importlib.util

from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from benchmarks.gpu.train import TO_END, train


def run(result: Result, options: Options) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        result.add(skipped="bitsandbytes is not there: carry the last parts of the bundle")
        return
    batch = 2 if options.tiny else 16
    overrides = [
        f"training.batch_size={batch}",
        f"engine.in_flight={batch}",
        "model.quantization=nf4",
    ]
    train(result, options, overrides, until=options.seconds - TO_END, batches=2)
