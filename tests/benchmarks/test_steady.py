"""The benchmark of steady time compares what it says, and fails if something was not played."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import steady
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.training.session import Session


def test_every_mini_batch_is_measured(tmp_path: Path) -> None:
    took = steady.train(9, tmp_path)
    assert len(took) == 2
    # An example has at least a query, a retrieval, a decision to stop, an answer and its rollouts.
    assert took[0].calls > 8 * 4 > took[1].calls > 4
    assert all(mine.cpu_seconds > 0 and mine.seconds > 0 for mine in took)


def test_windows_are_the_ends_and_the_middle() -> None:
    took = [steady.Took(float(n), 0.0, 1, 0.0) for n in range(63)]
    begins = {name: chosen[0].seconds for name, chosen in steady.windows(took).items()}
    assert begins == {"first": 0, "half-way": 26, "last": 53}
    assert {len(chosen) for chosen in steady.windows(took).values()} == {10}


def test_windows_of_a_short_run_do_not_overlap() -> None:
    took = [steady.Took(float(n), 0.0, 1, 0.0) for n in range(5)]
    assert [[t.seconds for t in chosen] for chosen in steady.windows(took).values()] == [
        [0],
        [2],
        [4],
    ]


def test_failed_episodes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise FlowtuneError("out of order")

    monkeypatch.setattr(Session, "deviate_plays", broken)
    assert steady.main(["--episodes", "8"]) == 1
    assert "out of order" in capsys.readouterr().err
