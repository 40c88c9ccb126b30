"""The small float32 copy of a model in which its structure is proved."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from flowtune_cli.engine.structure import VOCABULARY, structural_copy
from support.architectures import make_architecture


def size(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_has_few_tokens_and_the_same_weights(tied: bool) -> None:
    model = make_architecture(
        "llama",
        dtype=torch.bfloat16,
        vocab_size=3 * VOCABULARY,
        pad_token_id=3 * VOCABULARY - 1,
        tie_word_embeddings=tied,
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = structural_copy(model, 256)
    assert made is not None
    embeddings, head = made.get_input_embeddings().weight, made.get_output_embeddings().weight
    assert (embeddings is head) is tied
    assert torch.equal(embeddings, model.get_input_embeddings().weight[:VOCABULARY].float())
    assert torch.equal(head, model.get_output_embeddings().weight[:VOCABULARY].float())
    assert len(made.model.layers) == 1
    ids = torch.tensor([[1, 2, 3, VOCABULARY - 1]])
    assert made(input_ids=ids).logits.shape == (1, 4, VOCABULARY)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    assert model.config.vocab_size == 3 * VOCABULARY


def test_a_model_that_needs_all_its_tokens_keeps_them() -> None:
    model = make_architecture("llama", vocab_size=2 * VOCABULARY)
    real = LlamaForCausalLM.forward

    def checks(self: Any, *arguments: Any, **more: Any) -> Any:
        if size(self) != 2 * VOCABULARY:
            raise ValueError("a table of all tokens")
        return real(self, *arguments, **more)

    with patch.object(LlamaForCausalLM, "forward", checks):
        made = structural_copy(model, 256)
    assert size(made) == 2 * VOCABULARY


def test_a_head_of_another_size_is_left_as_it_is() -> None:
    model = make_architecture("llama", vocab_size=2 * VOCABULARY)
    model.set_output_embeddings(nn.Linear(64, 2 * VOCABULARY + 8, bias=False))
    assert size(structural_copy(model, 256)) == 2 * VOCABULARY
