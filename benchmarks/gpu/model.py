"""The bundled model converted into the cache of the state folder, as it is everywhere, once."""

from __future__ import annotations

import time

from benchmarks.gpu.result import Result
from benchmarks.gpu.stages import Options
from flowtune_cli.config.settings import DEFAULT_MODEL
from flowtune_cli.registry import load_registry


def run(result: Result, options: Options) -> None:
    if options.tiny:
        result.add(skipped="a tiny random model stands for it")
        return
    start = time.perf_counter()
    directory = load_registry().model(DEFAULT_MODEL).prepare()
    size = sum(path.stat().st_size for path in directory.iterdir())
    result.add(
        model=DEFAULT_MODEL,
        mb=round(size / 1e6),
        seconds_to_convert=round(time.perf_counter() - start, 1),
    )
