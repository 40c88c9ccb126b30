"""What several processes gain: the figures of runs, and a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ranks
from benchmarks.work import save_tiny_model


def found(seconds: float, working: list[float], preferences: int = 3) -> dict[str, Any]:
    of_rank = {
        "seconds": seconds,
        "phases": {"play and deviate": 2.0, "learn": 1.0},
        "episodes": 20,
        "preferences": preferences,
        "summing": 0.25,
        "sent": 9000,
    }
    return {
        "ranks": [{**of_rank, "working": each} for each in working],
        "adapters": {"a": torch.tensor([1.0, seconds])},
    }


def test_a_row_is_beside_that_of_one_process() -> None:
    alone, two = found(4.0, [0.0]), found(2.5, [2.0, 1.0])
    row = ranks.row(two, alone, batch=8)
    assert (row["processes"], row["speed-up"], row["balance"]) == (2, 1.6, 0.75)
    assert (row["in sums, s"], row["kB a mini-batch"]) == (0.25, 3)
    assert (row["same work"], row["adapters differ by"]) == (True, "1.5e+00")
    assert not ranks.row(found(2.5, [1.0], preferences=4), alone, batch=8)["same work"]
    assert ranks.row(alone, alone, batch=8)["speed-up"] == 1.0


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tmp_path: Path, capsys: Any) -> None:
    save_tiny_model(tmp_path / "model", context=4096)
    ranks.main(["--limit", "4", "--batch", "4", "--set", f"model.name={tmp_path / 'model'}"])
    _, title, *rows = capsys.readouterr().out.splitlines()
    columns = title.split("\t")
    one, two = (dict(zip(columns, row.split("\t"), strict=True)) for row in rows)
    assert (one["processes"], two["processes"]) == ("1", "2")
    assert two["same work"] == "True"
    assert float(two["adapters differ by"]) < 1e-5
    assert int(two["kB a mini-batch"]) > 0
