"""The benchmark of learning: its control tosses the preferences that are learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import learning


@pytest.mark.parametrize("control", [True, False])
def test_the_control_learns_from_tossed_preferences(
    control: bool, roomy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tossed = []

    def spy(seed: int) -> Any:
        toss = original(seed)

        def collect(nodes: Any, traces: Any) -> Any:
            tossed.append(len(traces))
            return toss(nodes, traces)

        return collect

    original = learning._tossed
    monkeypatch.setattr(learning, "_tossed", spy)
    row = learning.learn(
        "toyqa",
        directory=tmp_path,
        name="run",
        seed=1,
        limit=2,
        questions=1,
        overrides=[f"model.name={roomy_model_dir}", "model.dtype=float32"],
        control=control,
        before={},
    )
    assert (row["control"], row["episodes"]) == (control, 2)
    assert tossed == ([2] if control else [])
