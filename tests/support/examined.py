"""Holds the engine against a model's own ``generate`` and forward, as a user would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from flowtune_cli.config.settings import AdapterSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.decoding import Decoder
from flowtune_cli.engine.forward import cache_argument
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
    device = adapters.model.device
    ids = torch.tensor([[*completion.prompt, *completion.tokens]], device=device)
    frozen, parts, past = completion.frozen_length, [], {}
    if frozen:
        with torch.no_grad(), adapters.using(None) as model:
            read = model(input_ids=ids[:, :frozen], use_cache=True)
            parts, past = [read.logits], {cache_argument(model): read[cache_argument(model)]}
    with adapters.using(adapter) as model:
        parts.append(model(input_ids=ids[:, frozen:], use_cache=bool(past), **past).logits)
    logprobs = torch.cat(parts, dim=1)[0, :-1].float().log_softmax(-1)
    values = logprobs.gather(1, ids[0, 1:, None])[:, 0]
    return values[-len(completion.tokens) :].sum()


class _NoTexts:
    def decode(self, ids: Any) -> str:
        return ""
