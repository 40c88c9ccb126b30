"""Adapters and an engine on the tiny model, and the slow way to what they compute fast."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.engine import ModelEngine
from flowtune_cli.engine.limits import Limits
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.testing.tiny_model import plain_log_likelihood, plain_logits, randomize

likelihood, logits = plain_log_likelihood, plain_logits

Heads = Mapping[str, Mapping[str, float]]

WINDOW = 8
"""Tokens that windowed layers of the tiny models attend to, the present one included."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": WINDOW},
    "Gemma2": {"sliding_window": WINDOW, "final_logit_softcapping": 2.0},
    "Granite": {"logits_scaling": 3.0},
    "Cohere": {"logit_scale": 0.25},
    "Qwen3": {},
}
"""Models that differ in attention, or in what they do with logits."""


def make_model(architecture: str, tiny_model: LoadedModel) -> LoadedModel:
    """A tiny random model of an architecture, in the place of the tiny model."""
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
        **ARCHITECTURES[architecture],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    model = model.eval().requires_grad_(False).to(tiny_model.device)
    return replace(tiny_model, model=model)


def with_tokenizer(tiny_model: LoadedModel, tokenizer: Any) -> LoadedModel:
    """A tiny random Llama with another tokenizer."""
    config = copy.deepcopy(tiny_model.model.config)
    config.vocab_size = len(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = transformers.LlamaForCausalLM(config)
    model = model.eval().requires_grad_(False).to(tiny_model.device)
    return replace(tiny_model, model=model, tokenizer=tokenizer)


def make_adapters(
    loaded: LoadedModel,
    nodes: Heads | None = None,
    *,
    seed: int = 0,
    randomized: bool = True,
    **settings: Any,
) -> Adapters:
    """Adapters for nodes ``a`` and ``b``, as if they had been trained: no two compute the same."""
    chosen = AdapterSettings(**{"rank": 4, **settings})
    nodes = {"a": {}, "b": {}} if nodes is None else nodes
    adapters = Adapters(loaded.model, nodes, chosen, seed)
    if randomized:
        randomize(adapters)
    return adapters


def make_engine(loaded: LoadedModel, adapters: Adapters, **limits: int) -> ModelEngine:
    return ModelEngine(adapters, loaded.tokenizer, loaded.context, Limits(**limits))


def plain(text: str, reserve: int = 16) -> Prompt:
    """A prompt without a chat template."""
    return Prompt((Message("text", (Segment(text),)),), chat=False, reserve=reserve)


def state(adapters: Adapters, name: str) -> list[torch.Tensor]:
    """A copy of an adapter's weights."""
    return [parameter.detach().clone() for parameter in adapters.parameters(name)]


def same(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    """Whether all weights are equal, to the bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def text(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random token ids of the tiny model, special tokens left out."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, (length,), generator=generator).tolist())
