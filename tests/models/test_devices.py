"""Measuring the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from flowtune_cli.models import devices as probe  # noqa: E402


def test_the_processor_is_a_device() -> None:
    cpu = probe.devices()[0]
    assert cpu.name == "cpu"
    assert f"{torch.get_num_threads()} threads" in cpu.description


def test_the_processors_features_are_those_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"sse2": True, "avx2": True, "amx_bf16": False, "sve_max_length": 32, "i8mm": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert probe.cpu_features() == ["avx2", "i8mm"]


@pytest.mark.parametrize(
    ("features", "times", "dtype"),
    [
        ({"avx512_bf16": True}, 4.6, torch.bfloat16),
        ({"avx512_bf16": True}, 0.6, torch.float32),
        ({"avx512_bf16": True}, 1.9, torch.float32),  # not worth its coarser figures
        ({"bf16": True, "i8mm": True}, 2.0, torch.bfloat16),
    ],
)
def test_the_faster_dtype_is_measured(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], times: float, dtype: torch.dtype
) -> None:
    speeds = {torch.float32: 200.0, torch.bfloat16: 200.0 * times}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    monkeypatch.setattr(probe, "matmul_gflops", speeds.__getitem__)
    assert probe.faster_dtype(torch.device("cpu")) == dtype
    assert probe.devices()[0].dtype == str(dtype).removeprefix("torch.")


def test_what_would_be_emulated_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    monkeypatch.setattr(probe, "matmul_gflops", lambda dtype: pytest.fail("was measured"))
    assert probe.faster_dtype(torch.device("cpu")) == torch.float32


def test_it_imports_torch_alone() -> None:
    code = "import sys; from flowtune_cli.models import devices; print(*sys.modules)"
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
