"""A trial of an optimizer, before anything is trained: whether it steps, and resumes exactly."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config.optimizers import OptimizerChoice
from ..flow.errors import UsageError
from .optimizer_state import (
    group_options,
    load_optimizer_state,
    load_state,
    optimizer_state,
    save_state,
)

Make = Callable[[Sequence[Tensor]], torch.optim.Optimizer]


def check_resumes(make: Make, parameters: Sequence[Tensor], choice: OptimizerChoice) -> None:
    """Take steps on copies of parameters, once in one go and once through a file in between.

    Raises:
        UsageError: a step fails, its state cannot be written, or what was read from the file goes
            on otherwise: a run with it would be lost at its first checkpoint, or wrong after it.
    """
    where = f"{choice.where}: the optimizer '{choice.name}'"
    devices = list(dict.fromkeys(p.device for p in parameters if p.device.type == "cuda"))
    try:
        with torch.random.fork_rng(devices=devices):
            whole = _steps(make, parameters, through_file=False)
            parts = _steps(make, parameters, through_file=True)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{where} cannot be used here: a trial of it (a step, its state to a file and back,"
            f" and another step) raised {type(error).__name__}: {error}"
        ) from error
    pairs = zip(whole, parts, strict=True)
    if not all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs):
        raise UsageError(
            f"{where} cannot be used, as a run with it could not resume exactly: after its state"
            " went through a file, it steps otherwise. Its state_dict() and load_state_dict() have"
            " to hold all that its steps depend on."
        )


def _steps(make: Make, parameters: Sequence[Tensor], *, through_file: bool) -> list[Tensor]:
    """The parameters after four steps."""
    torch.manual_seed(0)
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    optimizer = make(copies)
    at_first = group_options(optimizer)
    for number in range(4):
        if through_file and number == 2:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "state.safetensors"
                save_state(optimizer_state(optimizer, at_first), path)
                optimizer = make(copies)
                load_optimizer_state(optimizer, load_state(path))
        for copy in copies:
            steps = torch.arange(copy.numel(), device=copy.device, dtype=torch.float32)
            copy.grad = torch.sin(steps + number).view_as(copy).to(copy.dtype)
        optimizer.step()
    return [copy.detach() for copy in copies]
