"""Weights that lie in blocks give the same products and gradients."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowtune_cli.engine import blocked_weights
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.blocked_weights import block_weights
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.flow.request import DecodeRequest, Decoding
from flowtune_cli.models.loading import LoadedModel
from support.tiny import ARCHITECTURES, make_adapters, make_engine, make_model, text
from support.tiny import plain as prompt

COMPLETIONS = [Completion(text(60, 0), 0, text(6, 10)), Completion(text(30, 1), 20, text(5, 12))]

blocks = pytest.mark.skipif(not blocked_weights._has_blocks(), reason="needs oneDNN on x86")


def learned(adapters: Adapters, max_graph_tokens: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Likelihoods, and the gradients of their sum."""
    found = likelihoods(
        PrefixCache(adapters, Limits()), "a", COMPLETIONS, max_graph_tokens=max_graph_tokens
    )
    with adapters.using("a"):
        gradients = torch.autograd.grad(found.sum(), adapters.parameters("a"))
    return found.detach(), list(gradients)


def alone(layer: torch.nn.Linear) -> Any:
    """A model of one layer."""
    return SimpleNamespace(get_decoder=lambda: layer, parameters=layer.parameters)


def decoded(loaded: LoadedModel, adapters: Adapters) -> list[Any]:
    engine = make_engine(loaded, adapters)
    decoding = Decoding(groups=3, diversity_penalty=1.0)
    return engine.answer([DecodeRequest("a", prompt("some text"), 9, decoding=decoding)])


@blocks
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_computes_the_same(tiny_model: LoadedModel, architecture: str) -> None:
    plain, blocked = (make_model(architecture, tiny_model) for _ in range(2))
    # Two layers of four projections and three more products each.
    assert block_weights(blocked.model) == 14
    slow, fast = make_adapters(plain), make_adapters(blocked)
    for max_graph_tokens in (0, float("inf")):
        torch.testing.assert_close(
            learned(fast, max_graph_tokens), learned(slow, max_graph_tokens), rtol=1e-4, atol=1e-4
        )
    (one,), (other,) = decoded(plain, slow), decoded(blocked, fast)
    for mine, others in zip(one.generations, other.generations, strict=True):
        assert mine.tokens == others.tokens
        assert mine.logprob == pytest.approx(others.logprob, abs=1e-4)


@blocks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_may_have_a_bias(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 here")
    plain = torch.nn.Linear(30, 7, dtype=dtype).requires_grad_(False)
    blocked = copy.deepcopy(plain)
    assert block_weights(alone(blocked)) == 1
    given = torch.randn(2, 5, 60, dtype=dtype)[..., ::2].requires_grad_()
    for layer in (plain, blocked):
        assert layer(given).shape == (2, 5, 7)
    close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(blocked(given), plain(given), **close)
    gradients = [
        torch.autograd.grad(layer(given).square().sum(), given) for layer in (plain, blocked)
    ]
    torch.testing.assert_close(gradients[1], gradients[0], **close)


@blocks
def test_what_learns_stays_as_it_is(tiny_model: LoadedModel) -> None:
    layer = torch.nn.Linear(8, 8)
    assert block_weights(alone(layer)) == 0
    assert type(layer) is torch.nn.Linear
    model = make_model("Llama", tiny_model).model
    block_weights(model)
    assert block_weights(model) == 0
    # It may be tied to the embeddings, of which single rows are looked up.
    assert type(model.get_output_embeddings()) is torch.nn.Linear
