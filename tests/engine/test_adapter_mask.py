"""Adapters that leave the beginnings of rows to the base model, in the same pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowtune_cli.engine.adapter_mask import AdapterMask
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.plain import token_logprobs
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.models.loading import LoadedModel
from support.device import DEVICE
from support.tiny import likelihood, make_adapters, text

IDS = torch.tensor([text(12, 1), text(12, 2)], device=DEVICE)


@pytest.fixture
def adapters(tiny_model: LoadedModel) -> Adapters:
    return make_adapters(tiny_model)


@torch.no_grad()
def logits(adapters: Adapters, adapter: str | None, ids: Tensor, frozen_length: int) -> Tensor:
    with adapters.using(adapter, frozen_length) as model:
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@pytest.mark.parametrize("frozen_length", [1, 5, 11])
def test_a_text_is_read_as_by_the_base_model_and_then_by_the_adapter(
    adapters: Adapters, frozen_length: int
) -> None:
    rows = [text(12, 1), text(12, 2)]
    with torch.no_grad():
        found = token_logprobs(adapters, "a", rows, frozen_length, 12 - frozen_length)
        for row, values in zip(rows, found, strict=True):
            prompt, tokens = row[:frozen_length], row[frozen_length:]
            slow = likelihood(adapters, "a", prompt, tokens, frozen_length)
            assert float(values.sum()) == pytest.approx(float(slow), abs=1e-4)


def test_what_is_frozen_is_what_the_base_model_computes_to_the_bit(adapters: Adapters) -> None:
    mixed, base = logits(adapters, "a", IDS, 7), logits(adapters, None, IDS, 0)
    assert torch.equal(mixed[:, :7], base[:, :7])
    assert not torch.isclose(mixed[:, 7:], base[:, 7:]).all(dim=-1).any()


def test_nothing_is_hidden_afterwards(adapters: Adapters) -> None:
    before = logits(adapters, "a", IDS, 0)
    logits(adapters, "a", IDS, 7)
    assert torch.equal(logits(adapters, "a", IDS, 0), before)


def test_no_layer_is_slowed_down_until_a_prefix_is_hidden(adapters: Adapters) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in adapters.model.modules())

    logits(adapters, "a", IDS, 0)
    assert hooks() == 0
    logits(adapters, "a", IDS, 7)
    count = hooks()
    assert count > 0
    logits(adapters, "a", IDS, 3)
    assert hooks() == count


class Shaped(nn.Module):
    """A model whose one layer reads its tokens in another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape
        self.layer = nn.Linear(4, 4)

    def forward(self, input_ids: Tensor) -> Any:
        states = torch.ones((*input_ids.shape, 4))
        return self.layer(states.view(*self.shape, 4)).view(states.shape)


def masked(model: Shaped) -> Any:
    """A mask whose adapter is the layer itself."""
    layers: Any = [SimpleNamespace(lora_A={"a": model.layer})]
    return AdapterMask(model, layers)


@pytest.mark.parametrize("shape", [(2, 3), (6,), (2, 1, 3)])
def test_layers_may_read_tokens_in_several_shapes(shape: tuple[int, ...]) -> None:
    model = Shaped(*shape)
    with masked(model).hiding(2):
        found = model(input_ids=torch.zeros((2, 3), dtype=torch.long))
    assert (found == 0).all(dim=-1).tolist() == [[True, True, False]] * 2


def test_a_layer_that_reads_something_else_is_an_error() -> None:
    model = Shaped(3, 2)
    with (
        masked(model).hiding(2),
        pytest.raises(FlowtuneError, match=r"reads \(3, 2\) in the place"),
    ):
        model(input_ids=torch.zeros((2, 3), dtype=torch.long))


def test_of_what_a_cache_holds_the_frozen_tokens_stay_hidden() -> None:
    """Latent attention reads what it kept of all tokens again, for each one that comes next."""
    model = Shaped(1, 3)
    seen = []
    with masked(model).hiding(2):
        for columns, shape in ((3, (1, 3)), (1, (1, 1)), (1, (1, 1, 1))):
            model.shape = shape
            found = model(input_ids=torch.zeros((1, columns), dtype=torch.long))
            seen.append((found == 0).all(dim=-1)[0].tolist())
        assert seen == [[True, True, False], [False], [False]]
        latent = model.layer(torch.ones((1, 1, 5, 4)))
        assert (latent == 0).all(dim=-1)[0, 0].tolist() == [True, True, False, False, False]
