"""The optimizers, each a factory: ``factory(parameters, **options)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

if TYPE_CHECKING:
    # Listing the optimizers takes no torch.
    from torch import nn, optim

# What settings are checked by, before a model is loaded.
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def cocob(
    parameters: Iterable[nn.Parameter], alpha: Positive = 1000.0, eps: Positive = 1e-8
) -> optim.Optimizer:
    """Coin betting without a learning rate (Orabona and Tommasi 2017, arXiv:1705.07795).

    Args:
        alpha: rounds of warm-up, roughly: each coordinate moves at most 1/alpha in a first step.
        eps: the smallest gradient scale that is assumed.
    """
    from parameterfree import COCOB

    optimizer: optim.Optimizer = COCOB(parameters, alpha=alpha, eps=eps)
    return optimizer


def adam(
    parameters: Iterable[nn.Parameter],
    lr: NotNegative = 1e-4,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
) -> optim.Optimizer:
    """Adam (Kingma and Ba 2015).

    Args:
        lr: learning rate.
        betas: decay of the first and second moments.
        eps: added to the denominator.
    """
    from torch import optim

    return optim.Adam(parameters, lr=lr, betas=tuple(betas), eps=eps)


def adam8bit(
    parameters: Iterable[nn.Parameter],
    lr: NotNegative = 1e-4,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: NotNegative = 1e-8,
) -> optim.Optimizer:
    """Adam with 8-bit moments, by bitsandbytes.

    Args:
        lr: learning rate.
        betas: decay of the first and second moments.
        eps: added to the denominator.
    """
    import bitsandbytes

    optimizer: Any = bitsandbytes.optim.Adam8bit(
        list(parameters), lr=lr, betas=tuple(betas), eps=eps
    )
    checked: optim.Optimizer = optimizer
    return checked
