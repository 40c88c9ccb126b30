"""Which figures of a mini-batch are logged."""

from __future__ import annotations

import math
from dataclasses import replace

from flowtune_cli.runs.batch import MetricRecord
from flowtune_cli.trackers.metrics import batch_metrics
from report.stored_runs import preference_batch

RECORD = preference_batch([("a", "b"), ("c", "d")])


def test_rewards_updates_and_references() -> None:
    assert batch_metrics(RECORD) == {
        "reward/good/overall": 0.5,
        "reward/good/window": 0.25,
        "node/write/data": 2.0,
        "node/write/loss": 0.5,
        "node/write/margin": 0.1,
        "node/write/accuracy": 0.75,
        "node/write/gradient_norm": 1.0,
        "node/write/reference_drift": 2.25,
        "node/write/reference_moved": 1.0,
        "episode/preferences": 1.0,
        "episode/failed": 0.0,
        "episode/truncated": 0.0,
    }


def test_what_is_undefined_is_no_figure() -> None:
    [update] = RECORD.updates
    record = replace(
        RECORD,
        metrics={"never": MetricRecord(None, math.inf, 0, 2)},
        updates=[replace(update, loss=None)],
        reference_update=None,
    )
    names = batch_metrics(record)
    assert not [name for name in names if name.startswith("reward/")]
    assert "node/write/loss" not in names
    assert "node/write/reference_moved" not in names
