"""The memory that weights take and a device has, and the refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models import memory
from flowtune_cli.models.memory import Weight, check_memory, weight_bytes

WEIGHTS = [
    Weight("model.embed_tokens.weight", [100, 10]),
    Weight("model.layers.0.q_proj.weight", [10, 10]),
    Weight("model.norm.weight", [10]),
]


def test_weights_take_the_bytes_of_the_dtype() -> None:
    assert weight_bytes(WEIGHTS, torch.float32, quantized=False) == 4 * 1110
    assert weight_bytes(WEIGHTS, torch.bfloat16, quantized=False) == 2 * 1110


def test_only_the_matrices_of_layers_are_quantised() -> None:
    assert weight_bytes(WEIGHTS, torch.bfloat16, quantized=True) == int(2 * 1010 + 0.516 * 100)


def test_packed_integers_stay_as_they_are() -> None:
    assert weight_bytes([Weight("q_proj.weight", [50, 1], 50)], torch.float32, False) == 50


def test_a_model_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 3_000_000_000)
    cpu = torch.device("cpu")
    check_memory("some/model", 3_000_000_000, cpu, torch.float32)
    with pytest.raises(UsageError, match=r"'some/model' need 28\.0 GB in float32 on cpu.*3\.0 GB"):
        check_memory("some/model", 28_000_000_000, cpu, torch.float32)


def test_the_machine_has_memory() -> None:
    cpu = torch.device("cpu")
    assert memory.total_bytes(cpu) > memory.available_bytes(cpu) > 1_000_000


def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (tmp_path / "missing", limit))
    limit.write_text("max\n")
    whole = memory.total_bytes(torch.device("cpu"))
    for written, expected in ((str(10**6), 10**6), (str(2**63), whole)):
        limit.write_text(f"{written}\n")
        assert memory.total_bytes(torch.device("cpu")) == expected
