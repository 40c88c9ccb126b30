"""The baseline, written plainly: what flowtune is compared with, and what checks its outputs.

It answers the same requests and learns from the same data, one at a time: a prompt through
``transformers.generate``, scores in padded micro-batches of four whole texts, and in learning one
whole text a forward pass, so four for a preference. A prompt's frozen prefix is read without the
adapter in a pass before it, again each time. Nothing is remembered or shared, but that two labels
of one token are read off the same logits, as anybody would write it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from benchmarks.throughput.rows import Diverse, Ends, Rows
from flowtune_cli.engine.adapters import Adapters, reference_of
from flowtune_cli.engine.forward import with_cache
from flowtune_cli.engine.likelihoods import Completion
from flowtune_cli.flow.node import Datum, PreferenceDatum, Score, TextDatum
from flowtune_cli.flow.request import (
    Answer,
    Decoded,
    DecodeRequest,
    Likelihood,
    Request,
    Scored,
    ScoreRequest,
)
from flowtune_cli.learning.learner import Learner
from flowtune_cli.learning.losses import choice_loss, dpo_loss, text_loss
from flowtune_cli.models.tokens import Encoded, Tokens

MICRO_BATCH = 4


class PlainEngine:
    """Answers requests one after another.

    Args:
        adapters: the model with its adapters.
        tokenizer: the model's.
        context: longest prompt plus output, in tokens.
    """

    def __init__(self, adapters: Adapters, tokenizer: Any, context: int) -> None:
        self.adapters = adapters
        self.tokens = Tokens(tokenizer, context, cache_size=0)
        configured = adapters.model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        self.ends = sorted({tokenizer.eos_token_id, self.tokens.end_of_turn, *ends} - {None})

    def forget(self) -> None:
        """Nothing is remembered."""

    def answer(self, requests: list[Request]) -> list[Answer]:
        return [
            self._decode(request) if isinstance(request, DecodeRequest) else self._score(request)
            for request in requests
        ]

    def _decode(self, request: DecodeRequest) -> Decoded:
        if request.decoding.samples:
            raise NotImplementedError(
                "the baseline does not sample: use exploration = 'diverse_beam'"
            )
        prompt = self.tokens.encode(request.prompt, request.max_new_tokens)
        rows = Rows(request, len(prompt.ids), self.tokens, self.ends)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=request.max_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self.ends[0],
        )
        past: dict[str, Any] = {}
        if request.adapter is not None and prompt.frozen_length:
            cache = read_frozen_prefix(self.adapters, prompt)
            cache.batch_repeat_interleave(request.decoding.groups)
            past = with_cache(self.adapters.model, cache)
        with self.adapters.using(request.adapter) as model:
            ids = torch.tensor([prompt.ids] * request.decoding.groups, device=model.device)
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                logits_processor=[Diverse(rows)],
                stopping_criteria=[Ends(rows)],
                **past,
            )
        generations = rows.generations(found[:, len(prompt.ids) :].tolist())
        version = self.adapters.version(request.adapter)
        return Decoded(prompt.text, len(prompt.ids), prompt.dropped, generations, version)

    @torch.no_grad()
    def _score(self, request: ScoreRequest) -> Scored:
        prompts, items = [], []
        for prompt, completions in request.items:
            texts = self.tokens.completions(completions, prompt, rivals=request.rivals)
            prompts.append(self.tokens.encode(prompt, max(len(text) for text in texts)))
            items.append([_after(prompts[-1], text) for text in texts])
        rows = [row for completions in items for row in _texts(completions)]
        values: dict[Completion, float] = {}
        for start in range(0, len(rows), MICRO_BATCH):
            batch = rows[start : start + MICRO_BATCH]
            found = _read(self.adapters, request.adapter, batch)
            values.update({completion: float(value) for completion, value in found})
        return Scored(
            prompts=tuple(prompt.text for prompt in prompts),
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
            dropped_tokens=sum(prompt.dropped for prompt in prompts),
            likelihoods=tuple(
                tuple(Likelihood(values.get(c, 0.0), len(c.tokens)) for c in completions)
                for completions in items
            ),
            adapter_version=self.adapters.version(request.adapter),
            head=self.adapters.head(request.adapter),
        )


@torch.no_grad()
def read_frozen_prefix(adapters: Adapters, prompt: Encoded) -> DynamicCache:
    """The keys and values that the base model makes of a prompt's frozen prefix."""
    cache = DynamicCache()
    with adapters.using(None) as model:
        ids = torch.tensor([prompt.ids[: prompt.frozen_length]], device=model.device)
        model(ids, **with_cache(model, cache))
    return cache


class PlainLearner:
    """Updates adapters like ``Learner``, one whole text a forward pass.

    Args:
        learner: whose adapters, optimizers and settings it uses.
        tokens: encodes prompts.
    """

    def __init__(self, learner: Learner, tokens: Tokens) -> None:
        self.adapters, self.settings = learner.adapters, learner.settings
        self.optimizers, self.tokens = learner.optimizers, tokens

    def update(self, node: str, of_nodes: Mapping[str, Sequence[Datum]]) -> None:
        """Learn from a node's data of one mini-batch: a step a datum, or one for all."""
        data = of_nodes[node]
        groups = [[datum] for datum in data] if self.settings.step_per == "datum" else [list(data)]
        optimizer, parameters = self.optimizers[node], self.adapters.parameters(node)
        for group in groups:
            optimizer.zero_grad()
            for datum in group:
                loss = self._loss(node, datum) * (datum.weight / len(data))
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(
                [p for p in parameters if p.grad is not None], self.settings.clip, math.inf
            )
            optimizer.step()
            optimizer.zero_grad()
        self.adapters.versions[node] += 1

    def _loss(self, node: str, datum: Datum) -> Tensor:
        if isinstance(datum, PreferenceDatum):
            sides = (datum.chosen, datum.rejected)
            chosen, rejected = (self._scores(node, [side])[0] for side in sides)
            with torch.no_grad():
                references = [self._scores(reference_of(node), [side])[0] for side in sides]
            return dpo_loss(chosen, rejected, references[0], references[1], self.settings.beta)
        if isinstance(datum, TextDatum):
            completion = self._text(datum)
            values = self._values(node, [completion])
            return text_loss(values[completion], len(completion.tokens))
        return choice_loss(torch.stack(self._scores(node, datum.options)), datum.right)

    def _scores(self, adapter: str, scores: Sequence[Score]) -> list[Tensor]:
        terms = [[(term, self._completion(term)) for term in score.terms] for score in scores]
        values = self._values(adapter, [c for score in terms for _, c in score])
        found = []
        for score, members in zip(scores, terms, strict=True):
            total = torch.zeros((), device=self.adapters.model.device)
            for term, completion in members:
                length = max(len(completion.tokens), 1) if term.mean else 1
                total = total + term.coefficient * values[completion] / length
            heads = self.adapters.heads
            head = heads[adapter].tensors() if adapter in heads else {}
            found.append(score.value(total, head))
        return found

    def _values(self, adapter: str, completions: Sequence[Completion]) -> dict[Completion, Tensor]:
        device = self.adapters.model.device
        values = {completion: torch.zeros((), device=device) for completion in completions}
        for row in _texts(completions):
            values.update(_read(self.adapters, adapter, [row]))
        return values

    def completions(self, datum: Datum) -> list[Completion]:
        """The prompts and completions whose likelihoods a datum's loss is made of."""
        if isinstance(datum, TextDatum):
            return [self._text(datum)]
        if isinstance(datum, PreferenceDatum):
            scores: Sequence[Score] = (datum.chosen, datum.rejected)
        else:
            scores = datum.options
        return [self._completion(term) for score in scores for term in score.terms]

    def _text(self, datum: TextDatum) -> Completion:
        tokens = self.tokens.answer(datum.completion, datum.prompt)
        return _after(self.tokens.encode(datum.prompt, len(tokens)), tokens)

    def _completion(self, term: Any) -> Completion:
        tokens = term.completion
        if isinstance(tokens, str):
            texts = term.rivals or (tokens,)
            found = self.tokens.completions(texts, term.prompt, rivals=bool(term.rivals))
            tokens = found[texts.index(tokens)]
        return _after(self.tokens.encode(term.prompt, len(tokens)), tokens)


def _after(prompt: Encoded, tokens: tuple[int, ...]) -> Completion:
    return Completion(prompt.ids, prompt.frozen_length, tokens)


def _texts(completions: Sequence[Completion]) -> list[list[Completion]]:
    """What is read off each whole text: labels of one token after one prompt need it once."""
    texts: dict[Any, list[Completion]] = {}
    for completion in completions:
        if completion.tokens:
            alone = completion.tokens if len(completion.tokens) > 1 else ()
            key = (completion.prompt, completion.frozen_length, alone)
            texts.setdefault(key, []).append(completion)
    return list(texts.values())


def _read(
    adapters: Adapters, adapter: str | None, texts: Sequence[Sequence[Completion]]
) -> Iterator[tuple[Completion, Tensor]]:
    """Each completion with its log-likelihood, from one forward pass with all logits.

    Frozen prefixes are read before, padded on the left, in a pass without the adapter.
    """
    device = adapters.model.device
    firsts = [members[0] for members in texts]
    frozen = [list(first.frozen_prefix) if adapter else [] for first in firsts]
    rows = [
        [*first.prompt, *first.tokens][len(prefix) :]
        for first, prefix in zip(firsts, frozen, strict=True)
    ]
    longest, width = max(map(len, frozen)), max(map(len, rows))
    ids = torch.tensor(
        [
            [0] * (longest - len(prefix)) + prefix + row + [0] * (width - len(row))
            for prefix, row in zip(frozen, rows, strict=True)
        ],
        device=device,
    )
    mask = torch.tensor(
        [
            [0] * (longest - len(prefix))
            + [1] * (len(prefix) + len(row))
            + [0] * (width - len(row))
            for prefix, row in zip(frozen, rows, strict=True)
        ],
        device=device,
    )
    places = (mask.cumsum(1) - 1).clamp(min=0)
    more: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    parts = []
    if longest:
        cache = DynamicCache()
        with torch.no_grad(), adapters.using(None) as model:
            parts = [
                model(
                    input_ids=ids[:, :longest],
                    attention_mask=mask[:, :longest],
                    position_ids=places[:, :longest],
                    **with_cache(model, cache),
                ).logits
            ]
        more = {**more, **with_cache(adapters.model, cache)}
    with adapters.using(adapter) as model:
        parts += [
            model(input_ids=ids[:, longest:], position_ids=places[:, longest:], **more).logits
        ]
    logits = torch.cat(parts, dim=1)
    for row, members in enumerate(texts):
        for completion in members:
            begin = longest - len(frozen[row]) + len(completion.prompt) - 1
            read = logits[row, begin : begin + len(completion.tokens)].float().log_softmax(-1)
            targets = torch.tensor(completion.tokens, device=device)
            yield completion, read.gather(1, targets[:, None]).sum()
