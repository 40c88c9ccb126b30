"""What is measured: seconds by phase, what went through the model, and what had to.

Counting costs a few microseconds a forward pass: two hooks note the shapes that the decoder and
the output layer get. Seconds are of the calls of the engine and of the learner.

*Computed* tokens are rows times columns of every forward pass, padding included. *Needed* tokens
are what is left of them when nothing is computed twice: in each mini-batch and for each adapter the
different prefixes of all prompts and of what was generated or scored after them (the nodes of a
trie over the token ids, the last token of each text left out, as nothing follows it); and in
learning the same for each optimizer step under the policy, and for each mini-batch under the
reference.

Floating point operations are two for each weight of the linear layers a token, adapters (under one
percent) left out; the output layer where it is computed; and attention over every column and its
past. A backward pass through frozen weights costs as much as its forward pass, attention twice.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Coroutine, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from flowtune_cli.engine.cascade import CascadeCache
from flowtune_cli.engine.forward import cache_argument
from flowtune_cli.engine.likelihoods import Completion
from flowtune_cli.engine.packed_suffixes import PackedSuffixes
from flowtune_cli.flow.request import Answer, Decoded, DecodeRequest, Request
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.runtime.event_loop import running_loop

PHASES = ("play", "deviate", "score", "learn", "rest")
"""Decoding in episodes, alternatives included; in rollouts; all scoring; learning; the flow."""


@dataclass
class Work:
    """What went through the model.

    Args:
        steps: forward passes of one token a row, as in decoding.
        flops: floating point operations, backward passes included.
    """

    forwards: int = 0
    steps: int = 0
    tokens: int = 0
    flops: int = 0


@dataclass
class Figures:
    """What one or more mini-batches took; sums over them, but ``peak_mb``, a maximum."""

    examples: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    forwards: int = 0
    tokens: int = 0
    flops: int = 0
    needed: int = 0
    generated: int = 0
    rollouts: int = 0
    preferences: int = 0
    peak_mb: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        total = Figures(peak_mb=max(self.peak_mb, other.peak_mb))
        total.phases = {name: self.phases[name] + other.phases[name] for name in PHASES}
        for entry in dataclasses.fields(self):
            if entry.name not in ("phases", "peak_mb"):
                value = getattr(self, entry.name) + getattr(other, entry.name)
                setattr(total, entry.name, value)
        return total


class Meter:
    """Counts what goes through a model, from when it is made.

    Args:
        model: a causal language model of transformers, adapters on it or not.
    """

    def __init__(self, model: Any) -> None:
        self.work = Work()
        config = model.config.get_text_config(decoder=True)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._attention = 4 * config.num_hidden_layers * config.num_attention_heads * size
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        # The base layers of adapted ones count, the adapters' small matrices do not.
        self._weights = sum(
            module.weight.numel()
            for name, module in self._decoder.named_modules()
            if isinstance(module, torch.nn.Linear) and "lora_" not in name
        )
        self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        self._head.register_forward_pre_hook(self._before_head)

    def _before_decoder(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        rows, columns = (ids if ids is not None else kwargs["inputs_embeds"]).shape[:2]
        attended = _attended(kwargs.get(cache_argument(module)), rows, columns)
        backward = torch.is_grad_enabled()
        self.work.forwards += 1
        self.work.steps += columns == 1
        self.work.tokens += rows * columns
        self.work.flops += 2 * self._weights * rows * columns * (2 if backward else 1)
        self.work.flops += self._attention * attended * (3 if backward else 1)

    def _before_head(self, module: Any, args: Any) -> None:
        positions = args[0].numel() // args[0].shape[-1]
        backward = torch.is_grad_enabled()
        self.work.flops += 2 * self._head.weight.numel() * positions * (2 if backward else 1)


def _attended(cache: Any, rows: int, columns: int) -> int:
    """Columns that the tokens of a forward pass attend to, those of the cache included."""
    if not isinstance(cache, CascadeCache):
        return rows * columns * (columns + (cache.get_seq_length() if cache is not None else 0))
    owned = sum(group.lengths[owner] for group in cache.prefixes for owner in group.owners)
    suffixes: Any = cache.suffixes
    if isinstance(suffixes, PackedSuffixes):
        return owned + sum((end - begin) ** 2 for begin, end in suffixes.spans)
    return owned + rows * columns * (suffixes.length + 1)


@dataclass
class Watched:
    """An engine whose calls are timed and logged, in the place of the engine of a session."""

    session: ClassVar[None] = None
    """It answers whole batches alone, which are what is timed."""

    engine: Any
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    log: list[tuple[Request, Answer]] = field(default_factory=list)
    rollouts: set[int] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def answer(self, requests: list[Request]) -> list[Answer]:
        with self.timed() as spent:
            answers: list[Answer] = self.engine.answer(requests)
        # Requests of both phases share a batch: its time is split by the outputs asked for.
        outputs = dict.fromkeys(PHASES, 0)
        for request in requests:
            rolled = id(request) in self.rollouts
            self.rollouts.discard(id(request))
            if isinstance(request, DecodeRequest):
                outputs["deviate" if rolled else "play"] += request.decoding.outputs
            else:
                outputs["score"] += 1
        for phase, count in outputs.items():
            self.seconds[phase] += spent[0] * count / sum(outputs.values())
        self.log += zip(requests, answers, strict=True)
        return answers

    def watch(self, task: Any) -> None:
        """Note from now on which requests come from the task's rollouts."""
        run = task.run

        async def noted(episode: Any, example: Any) -> Any:
            flow = run(episode, example)
            return await (_Rollout(flow, self.rollouts) if episode.is_rollout else flow)

        task.run = noted

    @contextmanager
    def timed(self, phase: str | None = None) -> Iterator[list[float]]:
        spent = [0.0]
        start = time.perf_counter()
        yield spent
        spent[0] = time.perf_counter() - start
        if phase:
            self.seconds[phase] += spent[0]


@dataclass
class _Rollout:
    """Awaits a rollout's flow, and notes the requests that it waits for."""

    flow: Coroutine[Any, Any, Any]
    requests: set[int]

    def __await__(self) -> Generator[Any, Any, Any]:
        answer = None
        while True:
            try:
                awaited = self.flow.send(answer)
            except StopIteration as stop:
                return stop.value
            for future, request in running_loop().parked:
                if future is awaited:
                    self.requests.add(id(request))
            try:
                answer = yield awaited
            except BaseException as error:
                return self.flow.throw(error)


def needed_by_requests(
    tokens: Tokens, log: Iterable[tuple[Request, Answer]], learned: Iterable[Completion] = ()
) -> int:
    """Tokens that a mini-batch's answers needed, and the frozen prefixes of what was learned."""
    completions: dict[str | None, list[Completion]] = {}
    for request, answer in log:
        of_adapter = completions.setdefault(request.adapter, [])
        if isinstance(request, DecodeRequest):
            assert isinstance(answer, Decoded)
            prompt = tokens.encode(request.prompt, request.max_new_tokens)
            ends = [generation.tokens for generation in answer.generations]
            of_adapter += [Completion(prompt.ids, prompt.frozen_length, end) for end in ends]
        else:
            for item, texts in request.items:
                ends = tokens.completions(texts, item, rivals=request.rivals)
                prompt = tokens.encode(item, max(len(end) for end in ends))
                of_adapter += [Completion(prompt.ids, prompt.frozen_length, end) for end in ends]
    # What the base model reads: whole prompts of its own, and the others' frozen prefixes.
    base = {(*c.prompt, *c.tokens[:-1]) for c in completions.pop(None, [])}
    for completion in (*(c for each in completions.values() for c in each), *learned):
        base.add(completion.frozen_prefix)
    return _different(base) + sum(prefixes(each) for each in completions.values())


def prefixes(completions: Iterable[Completion]) -> int:
    """How many different prefixes these have after their frozen ones, whole texts left out."""
    inputs: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for completion in completions:
        if completion.tokens:
            inputs.setdefault(completion.frozen_prefix, set()).add(completion.inputs)
    return sum(_different(each) for each in inputs.values())


def _different(texts: Iterable[tuple[int, ...]]) -> int:
    """Different prefixes: in sorted order a text shares most with the one before it."""
    count = 0
    before: tuple[int, ...] = ()
    for text in sorted(texts):
        count += len(text) - _shared(before, text)
        before = text
    return count


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
