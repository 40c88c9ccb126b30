"""Decoding: greedy, diverse groups and samples of many prompts in one batch.

Diverse beam search (Vijayakumar et al. 2016) with one beam a group: at each position group g picks
the token with the highest log-probability less ``penalty`` for each of the groups 0..g-1 of the
same prompt that picked that token at this position. Group 0 pays nothing, so it is greedy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flow.request import Decoding, Generation
from ..models.tokens import Tokens
from .continuation import Continuation, go_on
from .forward import head
from .prefix import Prefix
from .prefixes import Prefixes


@dataclass(frozen=True)
class Job:
    """One prompt to decode from: its token ids, and how; the base model reads its context."""

    ids: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    decoding: Decoding
    seed: tuple[int | str, ...]
    context: int = 0


@dataclass
class _Row:
    """One output in the making."""

    job: int
    number: int
    spec: Job
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str | None = None
    truncated: bool = False

    @property
    def group(self) -> int | None:
        """Its group in the diverse search; None for a sample."""
        return self.number if self.number < self.spec.decoding.groups else None


class Decoder:
    """Decodes batches of jobs with one adapter at a time.

    Args:
        prefixes: reads the prompts.
        tokens: turns token ids into text.
        end: the token ids that end an output.
    """

    def __init__(self, prefixes: Prefixes, tokens: Tokens, end: frozenset[int]) -> None:
        self.prefixes = prefixes
        self.tokens = tokens
        self.end = end
        self.steps = 0

    @torch.inference_mode()
    def decode(self, adapter: str | None, jobs: Sequence[Job]) -> list[tuple[Generation, ...]]:
        """The outputs of each job, in order: the groups first, then the samples."""
        results: list[tuple[Generation, ...]] = [()] * len(jobs)
        for batch in self._batches(jobs):
            read = self.prefixes.read(
                adapter,
                [jobs[i].ids for i in batch],
                keep=True,
                contexts=[jobs[i].context for i in batch],
            )
            rows = [
                _Row(i, number, jobs[i], _generator(jobs[i], number))
                for i in batch
                for number in range(jobs[i].decoding.outputs)
            ]
            self._run(adapter, dict(zip(batch, read, strict=True)), rows)
            for i in batch:
                results[i] = tuple(_generation(row) for row in rows if row.job == i)
        return results

    def _batches(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Jobs of like lengths, bounded by their keys and values: a prompt's once, each row's own.

        These are a fraction of what a forward pass over as many tokens holds, so there may be
        four times as many.
        """
        budget = 4 * self.prefixes.tokens_per_batch
        batches: list[list[int]] = []
        longest = room = rows = 0
        for i in sorted(range(len(jobs)), key=lambda i: -len(jobs[i].ids)):
            room = max(room, jobs[i].max_new_tokens)
            rows += jobs[i].decoding.outputs
            if batches and (len(batches[-1]) + 1) * longest + rows * room <= budget:
                batches[-1].append(i)
            else:
                batches.append([i])
                longest, room = len(jobs[i].ids), jobs[i].max_new_tokens
                rows = jobs[i].decoding.outputs
        return batches

    def _run(self, adapter: str | None, read: dict[int, Prefix], rows: list[_Row]) -> None:
        index = {job: position for position, job in enumerate(read)}
        room = max(row.spec.max_new_tokens for row in rows)
        of_job = {job: prefix.logits for job, prefix in read.items()}
        logits = torch.stack([given for row in rows if (given := of_job[row.job]) is not None])
        alive = rows
        going: Continuation | None = None
        with self.prefixes.adapters.using(adapter) as model:
            while True:
                chosen = self._choose(alive, logits)
                staying = [i for i, row in enumerate(alive) if row.text is None]
                if not staying:
                    return
                left = len(staying) < len(alive)
                alive = [alive[i] for i in staying]
                if going is None:
                    prompts = [index[row.job] for row in alive]
                    going = go_on(model, list(read.values()), prompts, room)
                elif left:
                    going.keep(staying)
                logits = head(model, going.forward(chosen[staying]))
                self.steps += 1

    def _choose(self, rows: list[_Row], logits: Tensor) -> Tensor:
        """Append each row's next token; rows that end get their text."""
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        chosen = logprobs.argmax(dim=-1)
        _diversify(rows, logprobs, chosen)
        for position, row in enumerate(rows):
            if row.generator is not None:
                chosen[position] = _sample(logprobs[position], row.spec.decoding, row.generator)
        values = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
        for row, token, value in zip(rows, chosen.tolist(), values, strict=True):
            row.tokens.append(token)
            row.logprob += value
            self._maybe_end(row)
        return chosen

    def _maybe_end(self, row: _Row) -> None:
        if row.tokens[-1] in self.end:
            row.text = self.tokens.decode(row.tokens[:-1])
            return
        if row.spec.stop:
            text = self.tokens.decode(row.tokens)
            places = [place for stop in row.spec.stop if (place := text.find(stop)) >= 0]
            if places:
                row.text = text[: min(places)]
                return
        if len(row.tokens) >= row.spec.max_new_tokens:
            row.text = self.tokens.decode(row.tokens)
            row.truncated = True


def _diversify(rows: Sequence[_Row], logprobs: Tensor, chosen: Tensor) -> None:
    """Let each group choose anew, after the groups before it; nothing waits for the device."""
    groups: dict[int, list[int]] = {}
    for position, row in enumerate(rows):
        if row.group is not None and row.spec.decoding.groups > 1:
            groups.setdefault(row.group, []).append(position)
    if not any(groups):
        return
    number = {job: place for place, job in enumerate(dict.fromkeys(row.job for row in rows))}
    paid = logprobs.new_zeros((len(number), logprobs.shape[1]))
    for group, positions in sorted(groups.items()):
        mine = torch.tensor(positions, device=chosen.device)
        jobs = torch.tensor([number[rows[p].job] for p in positions], device=chosen.device)
        if group:
            chosen[mine] = (logprobs[mine] - paid[jobs]).argmax(dim=-1)
        penalty = [rows[p].spec.decoding.diversity_penalty for p in positions]
        paid[jobs, chosen[mine]] += torch.tensor(penalty, device=paid.device)


def _generator(job: Job, number: int) -> torch.Generator | None:
    """A sample's own randomness: from the job's seed and the sample's number alone."""
    if number < job.decoding.groups:
        return None
    digest = hashlib.sha256(repr((*job.seed, number)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _sample(logprobs: Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    """One token by inverting the cumulative distribution, with temperature and nucleus."""
    if decoding.temperature <= 0:
        return int(logprobs.argmax())
    probabilities = torch.softmax(logprobs / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        ordered, tokens = probabilities.sort(descending=True, stable=True)
        inside = (ordered.cumsum(0) - ordered) < decoding.top_p
        inside[0] = True
        # In the order of the vocabulary, which does not hang on the last bit of a probability.
        probabilities = probabilities.index_fill(0, tokens[~inside], 0.0)
    cumulative = probabilities.cumsum(0)
    point = torch.rand((), generator=generator).to(cumulative.device) * cumulative[-1]
    place = int(torch.searchsorted(cumulative, point, right=True))
    return min(place, int(probabilities.nonzero()[-1]))


def _generation(row: _Row) -> Generation:
    assert row.text is not None
    return Generation(row.text, tuple(row.tokens), row.logprob, row.truncated)
