"""The log-likelihood of completions after prompts, with gradients: what nodes learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batches import batches
from .forward import head, hidden_states, pad_right, windowed
from .packing import SHORTEST, Ids, Row, masks, pack
from .prefix import Prefix, side_by_side
from .prefixes import Prefixes
from .recomputing import Before, recomputing

KEYS_VALUES_COST = 0.125
"""What laying a context's token before a row takes, in tokens that are read with gradients."""


class Pair(NamedTuple):
    """Token ids of a prompt and of a completion.

    Args:
        prompt: its tokens, the first ``context`` of which the base model reads.
        context: how many; no gradient goes through them.
        completion: what stands behind it.
    """

    prompt: Ids
    context: int
    completion: Ids

    @property
    def begin(self) -> Ids:
        """Its context."""
        return self.prompt[: self.context]

    @property
    def text(self) -> Ids:
        """What is read behind its context: nothing follows a completion's last token."""
        return (*self.prompt[self.context :], *self.completion[:-1])


def likelihoods(
    prefixes: Prefixes, adapter: str | None, pairs: Sequence[Pair], *, most_held: float = math.inf
) -> Tensor:
    """Sum of log-probabilities of each completion after its prompt, with gradients.

    Texts that begin alike are packed into one row, so a prompt is read once for its completions,
    and what prompts have in common once for all. Rows of like lengths are read together. Contexts
    are remembered from when the prompts were played.

    Args:
        adapter: whose forward pass. It has to be active when gradients are taken, too.
        most_held: of what costs more, layers are computed again when gradients are taken, and hold
            their inputs alone until then; see ``cost``.

    Returns:
        Sums in nats, shape (pairs,), float32.
    """
    model = prefixes.adapters.model
    if adapter is None:
        pairs = [Pair(pair.prompt, 0, pair.completion) for pair in pairs]
    contexts = list(dict.fromkeys(pair.begin for pair in pairs if pair.context))
    read = dict(zip(contexts, prefixes.read(None, contexts, keep=True), strict=True))
    rows = packed(prefixes, pairs)
    owners: dict[tuple[Ids, Ids], list[int]] = {}
    sums = torch.zeros(len(pairs), device=model.device)
    for index, pair in enumerate(pairs):
        if pair.completion and pair.context == len(pair.prompt):
            # The base model alone says what comes first.
            logits = read[pair.prompt].logits
            assert logits is not None
            sums[index] = torch.log_softmax(logits.float(), dim=-1)[pair.completion[0]]
        if pair.completion:
            owners.setdefault((pair.begin, pair.text), []).append(index)
    long = torch.is_grad_enabled() and cost(rows) > most_held
    with prefixes.adapters.using(adapter), recomputing(model) if long else nullcontext():
        for batch in batches([len(row.ids) for _, row in rows], math.inf):
            members = [rows[i] for i in batch]
            begins = [read.get(context) for context, _ in members]
            found, logprobs = _read(model, members, begins, pairs, owners)
            sums = sums.index_add(0, found, logprobs)
    return sums


def packed(prefixes: Prefixes, pairs: Sequence[Pair]) -> list[tuple[Ids, Row]]:
    """The rows in which completions are read after their prompts, each behind a context."""
    share = not windowed(prefixes.adapters.model.config)
    texts: dict[Ids, list[Ids]] = {}
    for pair in pairs:
        if pair.completion:
            texts.setdefault(pair.begin, []).append(pair.text)
    return [
        (context, row)
        for context in sorted(texts)
        # What texts have in common already is their context.
        for row in pack(texts[context], share=share, shortest=0 if context else SHORTEST)
    ]


def cost(rows: Sequence[tuple[Ids, Row]]) -> float:
    """What reading rows with gradients holds in memory, in tokens."""
    return sum(len(row.ids) + KEYS_VALUES_COST * len(context) for context, row in rows)


def _read(
    model: Any,
    rows: Sequence[tuple[Ids, Row]],
    begins: Sequence[Prefix | None],
    pairs: Sequence[Pair],
    owners: Mapping[tuple[Ids, Ids], Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """Each completion token's pair and log-probability, by one forward pass."""
    at: list[int] = []
    column: list[int] = []
    token: list[int] = []
    owner: list[int] = []
    for number, (context, row) in enumerate(rows):
        for text, columns in row.columns.items():
            for index in owners[context, text]:
                prompt, length, completion = pairs[index]
                # Nothing of the row comes before the first token behind a context.
                lacking = length == len(prompt)
                at += [number] * (len(completion) - lacking)
                column += columns[len(prompt) - length - 1 + lacking :]
                token += completion[lacking:]
                owner += [index] * (len(completion) - lacking)
    ids = pad_right([row.ids for _, row in rows], model.device)
    hidden = hidden_states(model, ids, **_behind(model, rows, begins, ids.shape[1]))
    places = torch.tensor([at, column], device=model.device)
    logprobs = torch.log_softmax(head(model, hidden[places[0], places[1]]).float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token, device=model.device)[:, None])[:, 0]
    return torch.tensor(owner, device=model.device), chosen


def _behind(
    model: Any, rows: Sequence[tuple[Ids, Row]], begins: Sequence[Prefix | None], columns: int
) -> dict[str, Any]:
    """What a forward pass needs beside the rows' tokens: their contexts, and what they may see."""
    apart = masks([row for _, row in rows], columns, model.dtype)
    apart = {name: tensor.to(model.device) for name, tensor in apart.items()}
    different = list({id(begin): begin for begin in begins if begin is not None}.values())
    if not different:
        return dict(apart)
    nothing = different[0].beginning(0)
    laid = [*different, nothing]
    number = {id(begin): place for place, begin in enumerate(different)}
    places = [len(different) if begin is None else number[id(begin)] for begin in begins]
    cache, seen = side_by_side(laid, places)
    lengths = torch.tensor([laid[place].length for place in places], device=model.device)
    more: dict[str, Any] = {"cache": Before(cache)}
    if apart:
        more["position_ids"] = apart["position_ids"] + lengths[:, None]
        hidden = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
        hidden = hidden.masked_fill(seen == 0, torch.finfo(model.dtype).min)
        hidden = hidden[:, None, None].expand(-1, 1, columns, -1)
        more["attention_mask"] = torch.cat([hidden, apart["attention_mask"]], dim=-1)
    else:
        more["position_ids"] = lengths[:, None] + torch.arange(columns, device=model.device)
        more["attention_mask"] = torch.cat([seen, seen.new_ones(len(rows), columns)], dim=1)
    return more
