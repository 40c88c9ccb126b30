"""Measuring the machine."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from flowtune_cli.engine import probe  # noqa: E402


def test_the_processor_is_a_device() -> None:
    cpu = probe.devices()[0]
    assert cpu.name == "cpu"
    assert f"{torch.get_num_threads()} threads" in cpu.description


def test_a_speed_is_flops_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, 0.5, 0.25, 1.0])
    monkeypatch.setattr(probe, "_timed", lambda a, b: next(times))
    clock = iter([0.0, 0.0, 0.05, 0.3])
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    # The first product only warms up, whatever it takes.
    assert probe.matmul_gflops(torch.float32, size=100, seconds=0.2) == pytest.approx(0.008)


def test_a_product_takes_time() -> None:
    assert probe.matmul_gflops(torch.bfloat16, size=32, seconds=0.0) > 0
