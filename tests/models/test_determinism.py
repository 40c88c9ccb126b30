"""What is set so that a GPU computes the same each time; there is none here, so it is looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.models.determinism import fix_arithmetic, is_refused, naming_the_setting

GPU = torch.device("cuda", 0)
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.utils.deterministic.fill_uninitialized_memory = before[2]
    torch.use_deterministic_algorithms(False)


def test_a_gpu_takes_deterministic_algorithms_alone() -> None:
    fix_arithmetic(GPU, True)
    assert torch.are_deterministic_algorithms_enabled()
    # With a warning in place of an error, gradients of attention would not be deterministic.
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ[WORKSPACE] == ":4096:8"
    # Which torch would do to memory that is written anyway.
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_the_setting_allows_others_later() -> None:
    fix_arithmetic(GPU, True)
    fix_arithmetic(GPU, False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("deterministic", [True, False])
def test_float32_is_float32(deterministic: bool) -> None:
    # As by TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    fix_arithmetic(GPU, deterministic)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_processor_is_left_as_it_is() -> None:
    torch.set_float32_matmul_precision("high")
    fix_arithmetic(torch.device("cpu"), True)
    assert torch.get_float32_matmul_precision() == "high"
    assert not torch.are_deterministic_algorithms_enabled()
    assert WORKSPACE not in os.environ


def test_a_workspace_of_the_users_own_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    fix_arithmetic(GPU, True)
    assert os.environ[WORKSPACE] == ":16:8"


def test_a_workspace_that_rules_it_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(UsageError, match=r"':0:0'.*:4096:8.*engine\.deterministic = false"):
        fix_arithmetic(GPU, True)
    assert not torch.are_deterministic_algorithms_enabled()
    fix_arithmetic(GPU, False)


def test_an_operation_that_has_no_such_algorithm_names_the_setting() -> None:
    torch.use_deterministic_algorithms(True)
    with (
        pytest.raises(UsageError, match=r"put_.*engine\.deterministic = false"),
        naming_the_setting(),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))


def test_other_errors_stay_as_they_are() -> None:
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError, match="size"), naming_the_setting():
        torch.zeros(3) + torch.zeros(4)
    torch.use_deterministic_algorithms(False)
    assert not is_refused(RuntimeError("deterministic in name"))
