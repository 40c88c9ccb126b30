"""Holds the engine against a model's own ``generate`` and forward, as a user would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.decoding import Decoder
from flowtune_cli.engine.likelihoods import Completion, likelihoods
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.paths import Paths
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.engine.proof import prove
from flowtune_cli.engine.rows import TokenizedRequest
from flowtune_cli.engine.scoring import score
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.request import GREEDY, Decoding, Generation
from flowtune_cli.models.targets import resolve_targets
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.testing.tiny_model import randomize

CONTEXT = 128
NEW_TOKENS = 6


class Near(NamedTuple):
    """How far the engine may be from the model.

    Args:
        nats: a score, and as a share of it; decoded tokens may differ where the model likes both
            within this much.
        gradient: as a share of its length.
    """

    nats: float
    share: float
    gradient: float


EXACT, COARSE = Near(1e-3, 1e-4, 2e-3), Near(1.0, 0.03, 0.3)
"""In float32, and in what keeps three digits: tiny models with large weights lose the rest."""


@dataclass
class Examined:
    """What was found.

    Args:
        paths: how the model is run; None if it is refused.
        refused: the error with which it is.
        notes: what the proof found of faster ways.
        faults: where the engine differs from the model.
    """

    paths: Paths | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)


def examine(model: Any) -> Examined:
    """Load a model as a session does, and compare all that its engine can do."""
    try:
        settings = AdapterSettings(rank=4, targets=resolve_targets(model, "auto"))
        proof = prove(model, settings, CONTEXT)
    except UsageError as error:
        return Examined(refused=str(error))
    found = Examined(proof.paths, notes=proof.found)
    adapters = Adapters(model, {"a": {}}, settings, 0)
    randomize(adapters)
    prefixes = PrefixCache(adapters, Limits(), proof.paths)
    prompts = _prompts(model)
    for adapter in ("a", None):
        found.faults += _decoding(prefixes, adapter, prompts)
        found.faults += _scoring(prefixes, adapter, prompts, 0)
    found.faults += _learning(prefixes, prompts, 0)
    if proof.paths.frozen_prefixes:
        # The prompts that begin alike, after what the base model reads.
        found.faults += _decoding_frozen(prefixes, prompts[:3], 20)
        found.faults += _scoring(prefixes, "a", prompts[:3], 20)
        found.faults += _learning(prefixes, prompts[:3], 20)
    return found


def _near(model: Any) -> Near:
    return EXACT if model.dtype == torch.float32 else COARSE


def _prompts(model: Any) -> list[tuple[int, ...]]:
    """Three that begin alike, and others shorter and longer than the windows of tiny models."""
    generator = torch.Generator().manual_seed(7)
    vocabulary = model.get_input_embeddings().weight.shape[0]

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist())

    shared = draw(20)
    return [shared + draw(4), shared + draw(9), shared + draw(4), draw(5), draw(29), draw(41)]


def _decoding(
    prefixes: PrefixCache, adapter: str | None, prompts: list[tuple[int, ...]]
) -> list[str]:
    groups = Decoding(groups=2, diversity_penalty=2.0)
    requests = [
        TokenizedRequest(prompt, NEW_TOKENS, (), groups if number % 2 else GREEDY, ())
        for number, prompt in enumerate(prompts)
    ]
    decoder = Decoder(prefixes, cast(Tokens, _NoTexts()), frozenset())
    faults = []
    for prompt, outputs in zip(prompts, decoder.decode(adapter, requests), strict=True):
        with prefixes.adapters.using(adapter) as model:
            ids = torch.tensor([prompt], device=model.device)
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                # Some versions of transformers keep what LongRoPE has made wrong.
                use_cache=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        own = tuple(whole[0, len(prompt) :].tolist())
        if own != outputs[0].tokens and not _as_likely(prefixes, adapter, prompt, own, outputs):
            faults.append(f"decoding {len(prompt)} tokens: {outputs[0].tokens} for {own}")
    return faults


def _decoding_frozen(
    prefixes: PrefixCache, prompts: list[tuple[int, ...]], frozen_length: int
) -> list[str]:
    requests = [
        TokenizedRequest(prompt, NEW_TOKENS, (), GREEDY, (), frozen_length) for prompt in prompts
    ]
    decoder = Decoder(prefixes, cast(Tokens, _NoTexts()), frozenset())
    faults = []
    for prompt, outputs in zip(prompts, decoder.decode("a", requests), strict=True):
        own = _greedy(prefixes.adapters, "a", prompt, frozen_length)
        if own != outputs[0].tokens and _near(prefixes.adapters.model) is EXACT:
            faults.append(f"decoding after {frozen_length} frozen: {outputs[0].tokens} for {own}")
    return faults


def _as_likely(
    prefixes: PrefixCache,
    adapter: str | None,
    prompt: tuple[int, ...],
    own: tuple[int, ...],
    outputs: Sequence[Generation],
) -> bool:
    """Whether the model likes the token in which outputs part as much; never in float32."""
    near = _near(prefixes.adapters.model)
    if near is EXACT:
        return False
    same = next(i for i, (a, b) in enumerate(zip(own, outputs[0].tokens, strict=True)) if a != b)
    ends = [(*own[:same], own[same]), (*own[:same], outputs[0].tokens[same])]
    with torch.no_grad():
        values = [
            float(_own(prefixes.adapters, adapter, Completion(prompt, 0, end))) for end in ends
        ]
    return values[0] - values[1] < near.nats


def _scoring(
    prefixes: PrefixCache,
    adapter: str | None,
    prompts: list[tuple[int, ...]],
    frozen_length: int,
) -> list[str]:
    completions = _completions(prompts, frozen_length)
    got = score(prefixes, adapter, completions, keep=True)
    faults = []
    for completion, value in zip(completions, got, strict=True):
        with torch.no_grad():
            own = float(_own(prefixes.adapters, adapter, completion))
        near = _near(prefixes.adapters.model)
        if not abs(own - value) < near.nats + near.share * abs(own):
            faults.append(f"scoring after {len(completion.prompt)} tokens: {value} for {own}")
    return faults


def _learning(
    prefixes: PrefixCache, prompts: list[tuple[int, ...]], frozen_length: int
) -> list[str]:
    completions = _completions(prompts, frozen_length)
    adapters = prefixes.adapters
    weights = torch.linspace(-1, 1, len(completions), device=adapters.model.device)

    def own() -> Tensor:
        return torch.stack([_own(adapters, "a", completion) for completion in completions])

    wanted = _gradient(adapters, lambda: (own() * weights).sum())
    faults = []
    for limit in (float("inf"), 0.0):
        got = _gradient(
            adapters,
            lambda limit=limit: (
                likelihoods(prefixes, "a", completions, max_graph_tokens=limit) * weights
            ).sum(),
        )
        error = float((got - wanted).norm() / wanted.norm())
        if not error < _near(adapters.model).gradient:
            faults.append(f"learning (limit {limit}, frozen {frozen_length}): off by {error:.1%}")
    return faults


def _gradient(adapters: Adapters, compute: Callable[[], Tensor]) -> Tensor:
    parameters = adapters.parameters("a")
    for parameter in parameters:
        parameter.grad = None
    value = compute()
    with adapters.using("a"):
        value.backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([part.flatten() for part in parts])


def _completions(prompts: list[tuple[int, ...]], frozen_length: int) -> list[Completion]:
    lengths = (1, 3, 7)
    return [
        Completion(prompt, frozen_length, tuple((11 * number + 5 * i) % 200 + 3 for i in range(n)))
        for number, prompt in enumerate(prompts)
        for n in lengths
    ]


def _own(adapters: Adapters, adapter: str | None, completion: Completion) -> Tensor:
    """A completion's log-likelihood by the model's forward over the whole text alone."""
    ids = [*completion.prompt, *completion.tokens]
    logits = _own_logits(adapters, adapter, ids, completion.frozen_length)
    logprobs = logits[:-1].float().log_softmax(-1)
    targets = torch.tensor(ids[1:], device=logits.device)
    return logprobs.gather(1, targets[:, None])[-len(completion.tokens) :].sum()


def _own_logits(
    adapters: Adapters, adapter: str | None, ids: Sequence[int], frozen_length: int
) -> Tensor:
    """Of each token of a text, shape (tokens, vocabulary)."""
    with adapters.using(adapter) as model, _without_adapter(model, frozen_length):
        inputs = torch.tensor([list(ids)], device=model.device)
        logits: Tensor = model(input_ids=inputs, use_cache=False).logits
    return logits[0]


@contextmanager
def _without_adapter(model: Any, frozen_length: int) -> Iterator[None]:
    """In this block, what a layer with an adapter makes of the first tokens is what it makes of
    them without: of both it takes each token's own."""

    def mixed(layer: LoraLayer, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        first = torch.arange(output.shape[-2], device=output.device) < frozen_length
        return torch.where(first[:, None], layer.get_base_layer()(*inputs), output)

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    hooks = [layer.register_forward_hook(mixed) for layer in layers if frozen_length]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _greedy(
    adapters: Adapters, adapter: str, prompt: tuple[int, ...], frozen_length: int
) -> tuple[int, ...]:
    """The likeliest tokens, each by the model's forward over all before it."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            ids.append(int(_own_logits(adapters, adapter, ids, frozen_length)[-1].argmax()))
    return tuple(ids[len(prompt) :])


class _NoTexts:
    def decode(self, ids: Any) -> str:
        return ""
