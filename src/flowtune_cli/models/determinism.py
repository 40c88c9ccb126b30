"""Has a GPU compute the same to the bit each time, and in full float32 where that is asked for.

What runs on a processor is left as it is: there it is so in any case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..flow.errors import UsageError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")
"""Those with which products of cuBLAS do not depend on what else runs."""


def fix_arithmetic(device: torch.device, deterministic: bool) -> None:
    """Set how a GPU computes, for all that follows in this process; before it is first used.

    Args:
        device: that computes.
        deterministic: take deterministic algorithms alone. With ``warn_only`` torch would still
            take another one for the gradients of attention, so an operation that has none is an
            error.

    Raises:
        UsageError: CUBLAS_WORKSPACE_CONFIG is set to something that rules this out.
    """
    if device.type != "cuda":
        return
    # Some images of containers allow TF32, with 10 bits of mantissa, by an environment variable.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    if deterministic and os.environ.setdefault(_WORKSPACE, _WORKSPACES[0]) not in _WORKSPACES:
        raise UsageError(
            f"{_WORKSPACE} is '{os.environ[_WORKSPACE]}', with which products on a GPU may differ"
            f" from run to run: unset it, or set it to {' or '.join(_WORKSPACES)}, or set"
            " engine.deterministic = false"
        )
    # Memory that is written anyway need not be filled first.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(deterministic)


@contextmanager
def naming_the_setting() -> Iterator[None]:
    """Say which setting allows an operation that torch has refused.

    Raises:
        UsageError: in its place.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_refused(error):
            raise
        raise UsageError(f"{str(error).splitlines()[0]} {ADVICE}") from error


ADVICE = "Set engine.deterministic = false to allow it: runs may then differ in their last bits."


def is_refused(error: BaseException) -> bool:
    """Whether an operation was refused as it has no deterministic algorithm."""
    return (
        isinstance(error, RuntimeError)
        and torch.are_deterministic_algorithms_enabled()
        and "deterministic" in str(error)
    )
