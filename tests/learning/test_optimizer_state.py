"""An optimizer's state goes through a file to the bit, or is refused by the place of the fault."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowtune_cli.config.optimizers import OptimizerChoice
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.learning.optimizer_state import StateError, load_state, save_state
from flowtune_cli.learning.optimizer_trial import check_resumes
from flowtune_cli.learning.optimizers import adam, adam8bit, cocob


def test_nested_states_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "state": {
            0: {"step": 3, "quantised": {"map": shared, "bytes": torch.tensor([1, 255]).byte()}},
            1: {"map": shared, "scalar": torch.tensor(2.5), "half": shared.bfloat16()},
            2: {"transposed": torch.arange(6.0).view(2, 3).T, "empty": torch.zeros(0, 2)},
        },
        "groups": [{"flag": True, "none": None, "betas": (0.9, 0.999), "text": "a.b"}, {}, []],
        "numbers": [1, 1.0, math.inf, 0.1, -(2**70)],
    }
    save_state(state, tmp_path / "state.safetensors")
    again = load_state(tmp_path / "state.safetensors")

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        if type(one) is not type(other):
            return False
        if isinstance(one, dict):
            return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
        if isinstance(one, (list, tuple)):
            return len(one) == len(other) and all(map(equal, one, other))
        return bool(one == other)

    assert equal(state, again)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state": {0: {"history": {1, 2}}}}, r"^state\.0\.history is of type set$"),
        ({"a": [1, object()]}, r"^a\.1 is of type object$"),
        ({"a": np.float64(1)}, r"^a is of type float64$"),
        ({"a": {(1, 2): 3}}, r"^a key in a is of type tuple$"),
    ],
)
def test_what_no_file_can_hold_is_named(state: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=message):
        save_state(state, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    save_file({"0.step": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match=r"state\.safetensors is no optimizer state"):
        load_state(path)


WEIGHTS = torch.linspace(-1, 1, 64 * 128).view(64, 128)
CHOICE = OptimizerChoice("mine", {})


@pytest.mark.parametrize("factory", [adam, adam8bit, cocob])
def test_flowtunes_own_resume_exactly(factory: Any) -> None:
    before, random = WEIGHTS.clone(), torch.get_rng_state()
    check_resumes(factory, [WEIGHTS], CHOICE)
    assert torch.equal(WEIGHTS, before)
    assert torch.equal(torch.get_rng_state(), random)


class Forgetful(torch.optim.SGD):
    """Counts its steps outside of its state."""

    steps = 0

    def step(self, closure: Any = None) -> None:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 1 / self.steps
        super().step()


def test_one_that_forgets_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"learning\.optimizer: .*'mine'.*not resume exactly"):
        check_resumes(lambda p: Forgetful(p, lr=1.0), [WEIGHTS], CHOICE)


def test_one_that_is_random_is_not() -> None:
    class Noisy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad += torch.randn_like(parameter)
            super().step()

    check_resumes(lambda p: Noisy(p, lr=1.0), [WEIGHTS], CHOICE)


def test_one_that_cannot_step_is_refused_with_the_reason() -> None:
    class Broken(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise RuntimeError("no kernel for this device")

    with pytest.raises(UsageError, match="RuntimeError: no kernel for this device"):
        check_resumes(lambda p: Broken(p, lr=1.0), [WEIGHTS], CHOICE)
