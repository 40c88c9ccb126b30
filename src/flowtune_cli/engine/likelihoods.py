"""The log-likelihood of completions after prompts, with gradients: what nodes learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.constraints import Grammar
from .batches import cheapest_batches
from .constrained import only_allowed
from .forward import compute_logits, pad_right
from .packing import MIN_SHARED_TOKENS, Ids, Row, pack, tree_mask
from .padded import PaddedCache
from .plain import equal_rows, sequence_logprobs
from .prefix import Prefix
from .prefix_cache import PrefixCache
from .recomputing import recomputing

PREFIX_COST = 0.125
"""What a token of a frozen prefix takes in memory, in tokens that are read with gradients."""


class Completion(NamedTuple):
    """Token ids of a prompt and of what follows it.

    Args:
        prompt: its tokens.
        frozen_length: how many of them the base model reads, without the adapter, from the
            beginning; no gradient goes through them.
        tokens: what follows the prompt.
        grammar: under which the tokens were chosen, and count among those that it allowed.
    """

    prompt: Ids
    frozen_length: int
    tokens: Ids
    grammar: Grammar | None = None

    @property
    def frozen_prefix(self) -> Ids:
        """The tokens that the base model reads."""
        return self.prompt[: self.frozen_length]

    @property
    def length(self) -> int:
        """All its tokens."""
        return len(self.prompt) + len(self.tokens)

    def row(self, adapter: str | None) -> tuple[Ids, int]:
        """All its tokens, and how many of them the base model reads beside this adapter."""
        return (*self.prompt, *self.tokens), 0 if adapter is None else self.frozen_length

    def allowed(self, vocabulary: int) -> Tensor | None:
        """Which tokens were allowed in the place of each, shape (tokens, vocabulary), bool."""
        return None if self.grammar is None else self.grammar.allowed(self.tokens, vocabulary)

    @property
    def inputs(self) -> Ids:
        """The tokens that the adapter reads: nothing follows the last one."""
        return (*self.prompt[self.frozen_length :], *self.tokens[:-1])


class PackedRow(NamedTuple):
    """The inputs of completions in a row, after the frozen prefix that they share."""

    frozen_prefix: Ids
    row: Row


def likelihoods(
    prefixes: PrefixCache,
    adapter: str | None,
    completions: Sequence[Completion],
    *,
    max_graph_tokens: float = math.inf,
) -> Tensor:
    """Sum of log-probabilities of each completion after its prompt, with gradients.

    What begins alike is packed into one row, so a prompt is read once for its completions, and what
    prompts have in common once for all. Rows of like lengths are read together. Frozen prefixes are
    remembered from when the prompts were played.

    Args:
        adapter: whose forward pass. It has to be active when gradients are taken, too.
        max_graph_tokens: if more is kept for gradients (see ``graph_tokens``), layers keep their
            inputs alone and compute again in the backward pass.

    Returns:
        Sums in nats, shape (completions,), float32.
    """
    packed = [i for i, c in enumerate(completions) if prefixes.paths.packs(c.length)]
    if len(packed) == len(completions):
        return _packed(prefixes, adapter, completions, max_graph_tokens)
    plain = [i for i, c in enumerate(completions) if not prefixes.paths.packs(c.length)]
    sums = torch.zeros(len(completions), device=prefixes.adapters.model.device)
    for indices, compute in ((packed, _packed), (plain, _plain)):
        if indices:
            at = torch.tensor(indices, device=sums.device)
            chosen = [completions[i] for i in indices]
            sums = sums.index_add(0, at, compute(prefixes, adapter, chosen, max_graph_tokens))
    return sums


def _packed(
    prefixes: PrefixCache,
    adapter: str | None,
    completions: Sequence[Completion],
    max_graph_tokens: float,
) -> Tensor:
    model = prefixes.adapters.model
    if adapter is None:
        completions = [completion._replace(frozen_length=0) for completion in completions]
    read = prefixes.prefill_frozen(c.frozen_prefix for c in completions)
    rows = pack_completions(prefixes, completions)
    owners: dict[tuple[Ids, Ids], list[int]] = {}
    sums = torch.zeros(len(completions), device=model.device)
    for index, completion in enumerate(completions):
        if completion.tokens and completion.frozen_length == len(completion.prompt):
            # The base model alone predicts the first token.
            logits = read[completion.prompt].logits
            assert logits is not None
            allowed = completion.allowed(len(logits))
            bound = [] if allowed is None else [allowed[:1]]
            first = only_allowed(logits.float()[None], [0] * len(bound), bound)
            sums[index] = torch.log_softmax(first, dim=-1)[0, completion.tokens[0]]
        if completion.tokens:
            owners.setdefault((completion.frozen_prefix, completion.inputs), []).append(index)
    recompute = (
        torch.is_grad_enabled()
        and prefixes.paths.recomputing
        and graph_tokens(rows) > max_graph_tokens
    )
    with (
        prefixes.adapters.using(adapter),
        recomputing(prefixes.adapters) if recompute else nullcontext(),
    ):
        for batch in cheapest_batches([len(packed.row.ids) for packed in rows], math.inf):
            members = [rows[i] for i in batch]
            before = [read.get(packed.frozen_prefix) for packed in members]
            targets = _targets(members, completions, owners)
            logprobs = _logprobs(model, members, before, targets, completions)
            index = torch.tensor([target.completion for target in targets], device=model.device)
            sums = sums.index_add(0, index, logprobs)
    return sums


def _plain(
    prefixes: PrefixCache,
    adapter: str | None,
    completions: Sequence[Completion],
    max_graph_tokens: float,
) -> Tensor:
    adapters = prefixes.adapters
    written = [i for i, completion in enumerate(completions) if completion.tokens]
    chosen = [completions[i] for i in written]
    rows = [completion.row(adapter) for completion in chosen]
    recompute = (
        torch.is_grad_enabled()
        and prefixes.paths.recomputing
        and sum(len(ids) for ids, _ in rows) > max_graph_tokens
    )
    sums = torch.zeros(len(completions), device=adapters.model.device)
    with recomputing(adapters) if recompute else nullcontext():
        for batch in equal_rows(rows, prefixes.limits.tokens_per_batch):
            values = logprobs_alone(prefixes, adapter, [chosen[place] for place in batch])
            at = torch.tensor([written[place] for place in batch], device=sums.device)
            sums = sums.index_add(0, at, values)
    return sums


def logprobs_alone(
    prefixes: PrefixCache, adapter: str | None, completions: Sequence[Completion]
) -> Tensor:
    """Log-likelihoods of completions that ``equal_rows`` put together, each read by itself."""
    rows = [completion.row(adapter) for completion in completions]
    counts = [len(completion.tokens) for completion in completions]
    ids = [ids for ids, _ in rows]
    return sequence_logprobs(
        prefixes.adapters,
        adapter,
        ids,
        rows[0][1],
        counts,
        [completion.allowed for completion in completions],
    )


def pack_completions(prefixes: PrefixCache, completions: Sequence[Completion]) -> list[PackedRow]:
    """The rows in which completions are read, each after a frozen prefix or none."""
    inputs: dict[Ids, list[Ids]] = {}
    for completion in completions:
        if completion.tokens:
            inputs.setdefault(completion.frozen_prefix, []).append(completion.inputs)
    rows = []
    for frozen_prefix in sorted(inputs):
        # After a frozen prefix, sequences have that in common already.
        min_shared = (
            math.inf if not prefixes.paths.branches else 0 if frozen_prefix else MIN_SHARED_TOKENS
        )
        rows += [PackedRow(frozen_prefix, row) for row in pack(inputs[frozen_prefix], min_shared)]
    return rows


def graph_tokens(rows: Sequence[PackedRow]) -> float:
    """What reading rows with gradients keeps in memory, in tokens."""
    return sum(len(row.ids) + PREFIX_COST * len(prefix) for prefix, row in rows)


class _Target(NamedTuple):
    """A token of a completion by its place, and the row and column that predict it."""

    completion: int
    place: int
    row: int
    column: int
    token: int


def _targets(
    rows: Sequence[PackedRow],
    completions: Sequence[Completion],
    owners: Mapping[tuple[Ids, Ids], Sequence[int]],
) -> list[_Target]:
    targets = []
    for number, (frozen_prefix, row) in enumerate(rows):
        for inputs, columns in row.columns.items():
            for index in owners[frozen_prefix, inputs]:
                prompt, frozen_length, tokens, _ = completions[index]
                # Nothing in the row comes before the first token after a frozen prefix.
                skipped = int(frozen_length == len(prompt))
                predicting = columns[len(prompt) - frozen_length - 1 + skipped :]
                later = enumerate(tokens[skipped:], skipped)
                for column, (place, token) in zip(predicting, later, strict=True):
                    targets.append(_Target(index, place, number, column, token))
    return targets


def _logprobs(
    model: Any,
    rows: Sequence[PackedRow],
    prefixes: Sequence[Prefix | None],
    targets: Sequence[_Target],
    completions: Sequence[Completion],
) -> Tensor:
    """Each target's log-probability, by one forward pass."""
    ids = pad_right([packed.row.ids for packed in rows], model.device)
    tree = tree_mask([packed.row for packed in rows], ids.shape[1], model.dtype)
    tree = {name: tensor.to(model.device) for name, tensor in tree.items()}
    states = PaddedCache(model, prefixes).forward(ids, tree)
    at = torch.tensor([target[2:] for target in targets], device=model.device)
    row, column, token = at.reshape(-1, 3).unbind(1)
    logits = compute_logits(model, states[row, column]).float()
    logprobs = torch.log_softmax(_bound(logits, targets, completions), dim=-1)
    return logprobs.gather(1, token[:, None])[:, 0]


def _bound(logits: Tensor, targets: Sequence[_Target], completions: Sequence[Completion]) -> Tensor:
    """Logits of the targets, of what was allowed alone."""
    masks: dict[int, Tensor] = {}
    rows = [n for n, target in enumerate(targets) if completions[target.completion].grammar]
    for index in {targets[row].completion for row in rows}:
        allowed = completions[index].allowed(logits.shape[1])
        assert allowed is not None
        masks[index] = allowed
    chosen = [masks[targets[row].completion][targets[row].place][None] for row in rows]
    return only_allowed(logits, rows, chosen)
