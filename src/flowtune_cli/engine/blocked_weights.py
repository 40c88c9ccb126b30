"""Weights reordered once into the blocks that the processor's matrix products read.

oneDNN multiplies by matrices in blocks as wide as the processor's registers, and reorders others at
each product. Reordered weights take as much memory and are faster: most with few rows, as in
decoding, and in float32 with many, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 512
"""Rows of the products that the blocks are chosen for; they hardly depend on it."""


def block_weights(model: Any) -> int:
    """Reorder the frozen linear layers of a model's decoder, if the processor gains by it.

    Returns:
        How many layers were reordered.
    """
    layers = [m for m in model.get_decoder().modules() if type(m) is nn.Linear and _can_block(m)]
    for layer in layers:
        # Swap the class in place, so references stay valid.
        layer.__class__ = BlockedLinear
        blocked = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)
        layer.weight = nn.Parameter(blocked, requires_grad=False)
    if layers:
        # A file's weights may share one memory mapping, which lasts as long as one of them.
        for parameter in model.parameters():
            if not parameter.is_mkldnn:
                parameter.data = parameter.data.clone()
    return len(layers)


def _can_block(layer: nn.Linear) -> bool:
    weight = layer.weight
    if weight.device.type != "cpu" or weight.requires_grad or not _has_blocks():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _has_blocks() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.backends.mkldnn.is_available() and capability in ("AVX2", "AVX512")


class BlockedLinear(nn.Linear):
    """A frozen linear layer whose weight is in blocks."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() and input.requires_grad:
            product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore
            return product
        return _product(input, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """The product, with gradients of its input alone."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return _product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The plain order takes a few percent of the product's time.
        return gradients[0] @ ctx.weight.to_dense(), None, None


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return product
