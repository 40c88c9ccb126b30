"""Small tensors on their way to the model's device, so that nothing waits for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(values: Any, device: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers, or a tensor on the host, as a tensor on a device.

    ``torch.tensor(values, device=...)`` would wait until a GPU has done all that it was given
    before: only memory that is pinned is copied beside other work.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
