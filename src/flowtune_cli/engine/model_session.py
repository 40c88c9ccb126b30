"""A session of the engine: requests join the running batches between steps, and leave them.

There is one running batch an adapter, and each step gives every row of all of them its next token.
Before that, in each step:

- what was cancelled leaves;
- the score requests that wait for one adapter are answered, those of the oldest one's;
- what waits to be decoded joins in its order, as far as it fits: no more is held than while a whole
  batch is decoded, and no more is read than a forward pass takes. What does not fit is not
  overtaken, so all of it has its turn.

Requests that the model cannot read together with others (see ``plain``) are decoded within one
step, those of one length together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..flow.request import Answer, Generation, OnTokens, Refusal, Request, ScoreRequest
from ..models.out_of_memory import attempt, out_of_memory, say_once
from .jobs import Asked, Job, Jobs, give
from .running_batch import Held, RunningBatch

if TYPE_CHECKING:
    from .engine import ModelEngine


class ModelSession:
    """See ``flow.request.EngineSession``.

    Args:
        engine: remembers the answers, too, until it is told to forget.
    """

    def __init__(self, engine: ModelEngine) -> None:
        self.engine = engine
        self._added: deque[tuple[Request, OnTokens | None, Future[Answer]]] = deque()
        self._scores: list[tuple[ScoreRequest, Future[Answer]]] = []
        self._jobs = Jobs(engine)
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._batches: dict[str | None, RunningBatch] = {}
        # Where memory is short: what runs ends first; how many may run then; whether the prefix
        # cache was emptied for what failed last.
        self._draining = False
        self._most = math.inf
        self._freed = False

    @property
    def busy(self) -> bool:
        return bool(self._added or self._scores or self._waiting or self._batches)

    @property
    def waiting(self) -> int:
        """How many requests wait for room, or for the next step."""
        return len(self._added) + len(self._scores) + len(self._waiting)

    def add(self, request: Request, on_tokens: OnTokens | None = None) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._added.append((request, on_tokens, future))
        return future

    @torch.inference_mode()
    def step(self) -> None:
        self._take_in()
        self._drop_cancelled()
        self._score()
        self._admit()
        for adapter in list(self._batches):
            self._advance(adapter)
        if not self._jobs:
            self._most, self._freed = math.inf, False

    # What comes and what is cancelled

    def _take_in(self) -> None:
        while self._added:
            request, on_tokens, future = self._added.popleft()
            if isinstance(request, ScoreRequest):
                self._scores.append((request, future))
                continue
            with _failing(future):
                found = self.engine.refuse_or_tokenize(request)
            if isinstance(found, Refusal):
                give(future, found)
                continue
            prompt, key = found
            job = self._jobs.ask(Asked(prompt, key, future, on_tokens))
            if job is not None:
                self._waiting.append(job)

    def _drop_cancelled(self) -> None:
        self._scores = [each for each in self._scores if not each[1].cancelled()]
        for job in [*self._waiting, *self._running.values()]:
            if not self._jobs.drop_cancelled(job):
                continue
            if self._running.pop(job.number, None) is None:
                self._waiting.remove(job)
                continue
            batch = self._batches[job.key.adapter]
            batch.leave(job.number)
            if not batch:
                del self._batches[job.key.adapter]

    # What is computed

    def _score(self) -> None:
        if not self._scores or (self._draining and self._batches):
            return
        adapter = self._scores[0][0].adapter
        chosen = [each for each in self._scores if each[0].adapter == adapter]
        self._scores = [each for each in self._scores if each[0].adapter != adapter]
        requests: list[Request] = [request for request, _ in chosen]
        try:
            reason, answers = attempt(lambda: self.engine.answer(requests))
            if answers is None and not self._batches:
                raise out_of_memory("scoring", str(reason))
        except Exception as error:
            # It may be the fault of one alone: the first is told if there is no other.
            _, future = chosen.pop(0)
            if chosen:
                self._scores[:0] = chosen
                with _failing(future):
                    answers = self.engine.answer(requests[:1])
                give(future, answers[0])
                return
            give(future, error)
            raise
        if answers is None:
            self._scores[:0] = chosen
            self._draining = True
            return
        for (_, future), answer in zip(chosen, answers, strict=True):
            give(future, answer)

    def _admit(self) -> None:
        if self._draining and self._batches:
            return
        self._draining = False
        if self._waiting and not self._shares(self._waiting[0]):
            self._decode_alike()
            return
        for adapter, jobs in self._joining().items():
            batch = self._batches.get(adapter) or self.engine.decoder.running_batch(adapter)
            requests = {job.number: job.key.request for job in jobs}
            self._take(jobs)
            with self._jobs.failing(jobs):
                reason, _ = attempt(lambda batch=batch, new=requests: batch.join(new))  # type: ignore[misc]
            if reason is not None:
                self._begin_again(jobs, reason)
                continue
            self._batches[adapter] = batch
            self._running.update((job.number, job) for job in jobs)

    def _joining(self) -> dict[str | None, list[Job]]:
        """What fits of those that wait, in their order."""
        decoder, most_read = self.engine.decoder, self.engine.limits.tokens_per_batch
        held = {adapter: batch.held for adapter, batch in self._batches.items()}
        joining: dict[str | None, list[Job]] = {}
        running, read = len(self._running), 0
        for job in self._waiting:
            adapter, request = job.key.adapter, job.key.request
            with_it = {**held, adapter: held.get(adapter, Held()).with_request(request)}
            read += len(request.prompt)
            if running >= self._most or not self._shares(job):
                break
            if held and sum(each.tokens for each in with_it.values()) > decoder.budget:
                break
            if joining and read > most_read:
                break
            joining.setdefault(adapter, []).append(job)
            held = with_it
            running += 1
        return joining

    def _take(self, jobs: list[Job]) -> None:
        """Let jobs wait no longer."""
        self._waiting = deque(job for job in self._waiting if job not in jobs)

    def _advance(self, adapter: str | None) -> None:
        batch = self._batches[adapter]
        jobs = [self._running[number] for number in batch.outputs]
        ended: dict[int, tuple[Generation, ...]] | None = None
        try:
            with self._jobs.failing(jobs), self.engine.adapters.using(adapter):
                reason, ended = attempt(batch.step)
        finally:
            if ended is None or not batch:
                del self._batches[adapter]
            for job in jobs:
                if ended is None or job.number in ended:
                    del self._running[job.number]
        if ended is None:
            self._begin_again(jobs, str(reason))
            return
        for job in jobs:
            if job.number in ended:
                self._end(job, ended[job.number])
            else:
                self._jobs.tell(job, [output.tokens for output in batch.outputs[job.number]])

    def _end(self, job: Job, generations: tuple[Generation, ...]) -> None:
        self._freed = False
        self._jobs.end(job, generations)

    def _shares(self, job: Job) -> bool:
        return self.engine.prefixes.paths.shares(job.key.request.length)

    def _decode_alike(self) -> None:
        """Decode those that wait and are like the first, as far as they fit, to their end."""
        first = self._waiting[0].key
        tokens = sum(batch.held.tokens for batch in self._batches.values())
        jobs: list[Job] = []
        for job in self._waiting:
            request = job.key.request
            like = (job.key.adapter, len(request.prompt), request.frozen_length)
            if like != (first.adapter, len(first.request.prompt), first.request.frozen_length):
                continue
            tokens += request.decoding.outputs * request.length
            if (jobs or self._batches) and tokens > self.engine.decoder.budget:
                break
            if not self._shares(job) and len(jobs) < self._most:
                jobs.append(job)
        if not jobs:
            return
        self._take(jobs)
        requests = [job.key.request for job in jobs]
        with self._jobs.failing(jobs):
            reason, outputs = attempt(lambda: self.engine.decoder.decode(first.adapter, requests))
        if outputs is None:
            self._begin_again(jobs, str(reason))
            return
        for job, generations in zip(jobs, outputs, strict=True):
            self._end(job, generations)

    def _begin_again(self, jobs: list[Job], reason: str) -> None:
        """Have jobs wait again for which memory ran out, until there is more of it for each.

        Raises:
            OutOfMemory: there is one alone, and nothing that could be let go of.
        """
        self._waiting.extendleft(reversed(jobs))
        freed = self.engine.prefixes.free()
        what = "writing the outputs of a prompt"
        if self._batches:
            self._draining = True
        elif freed and not self._freed:
            self._freed = True
        elif len(jobs) > 1:
            say_once(what)
            self._most, self._freed = (len(jobs) + 1) // 2, False
        else:
            self._waiting.popleft()
            with self._jobs.failing(jobs):
                raise out_of_memory(what, reason)


@contextmanager
def _failing(future: Future[Answer]) -> Iterator[None]:
    """Give an error to the one whom it concerns."""
    try:
        yield
    except Exception as error:
        give(future, error)
        raise
