"""Measuring the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from flowtune_cli.engine import probe  # noqa: E402


def test_the_processor_is_a_device() -> None:
    cpu = probe.devices()[0]
    assert cpu.name == "cpu"
    assert f"{torch.get_num_threads()} threads" in cpu.description


def test_the_processors_features_are_those_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"sse2": True, "avx2": True, "amx_bf16": False, "sve_max_length": 32, "i8mm": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert probe.cpu_features() == ["avx2", "i8mm"]
    assert not probe.devices()[0].bfloat16_units


def test_it_imports_torch_alone() -> None:
    code = "import sys; from flowtune_cli.engine import probe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout.split()
    assert not {"transformers", "peft", "bitsandbytes"} & set(done.stdout.split())


def test_a_speed_is_flops_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, 0.5, 0.25, 1.0])
    monkeypatch.setattr(probe, "_timed", lambda a, b: next(times))
    clock = iter([0.0, 0.0, 0.05, 0.3])
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    # The first product only warms up, whatever it takes.
    assert probe.matmul_gflops(torch.float32, size=100, seconds=0.2) == pytest.approx(0.008)


def test_a_product_takes_time() -> None:
    assert probe.matmul_gflops(torch.bfloat16, size=32, seconds=0.0) > 0
