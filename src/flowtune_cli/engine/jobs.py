"""Who waits for what a session decodes: equal requests are decoded once, for all who asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..flow.request import Answer, Generation, OnTokens
from ..models.tokens import Encoded

if TYPE_CHECKING:
    from .engine import DecodeKey, ModelEngine


@dataclass(eq=False)
class Asked:
    """Somebody who waits for an answer.

    Attributes:
        told: how many tokens of each output ``on_tokens`` was given.
    """

    prompt: Encoded
    key: DecodeKey
    future: Future[Answer]
    on_tokens: OnTokens | None
    told: dict[int, int] = field(default_factory=dict)

    def tell(self, outputs: Sequence[Sequence[int]]) -> None:
        """Give ``on_tokens`` what is new of the outputs' tokens."""
        if self.on_tokens is None:
            return
        # Of an exploring request that answers a greedy one, the first.
        for number, tokens in enumerate(outputs[: self.key.request.decoding.outputs]):
            told = self.told.get(number, 0)
            if told < len(tokens):
                self.told[number] = len(tokens)
                self.on_tokens(number, tuple(tokens[told:]))


@dataclass(eq=False)
class Job:
    """A request that is decoded.

    Args:
        number: no other job of the session has it.
        asked: all who wait for it.
    """

    number: int
    key: DecodeKey
    asked: list[Asked]


class Jobs:
    """The jobs that have not ended.

    Args:
        engine: remembers the answers.
    """

    def __init__(self, engine: ModelEngine) -> None:
        self._engine = engine
        # By what they answer: a job that explores answers the greedy request, too.
        self._by_key: dict[DecodeKey, Job] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def ask(self, asked: Asked) -> Job | None:
        """A new job, unless the answer is remembered, and so there, or a job will give it."""
        if self._engine.remembered(asked.key) is not None:
            self._answer(asked)
            return None
        if asked.key in self._by_key:
            self._by_key[asked.key].asked.append(asked)
            return None
        job = Job(self._count, asked.key, [asked])
        self._count += 1
        self._by_key[job.key] = job
        self._by_key.setdefault(job.key.greedy, job)
        return job

    def drop_cancelled(self, job: Job) -> bool:
        """Forget who has cancelled; whether nobody waits for the job any more, which is over."""
        job.asked = [asked for asked in job.asked if not asked.future.done()]
        if not job.asked:
            self._forget(job)
        return not job.asked

    def tell(self, job: Job, outputs: Sequence[Sequence[int]]) -> None:
        """Hand out the tokens that the outputs of a job have so far."""
        for asked in list(job.asked):
            if not _told(asked, outputs):
                job.asked.remove(asked)

    def end(self, job: Job, generations: tuple[Generation, ...]) -> None:
        """Hand out the answers that a job gives."""
        self._engine.remember(job.key, generations)
        self._forget(job)
        for asked in job.asked:
            self._answer(asked)

    @contextmanager
    def failing(self, jobs: Iterable[Job]) -> Iterator[None]:
        """Give an error to those whom it concerns; their jobs are over."""
        try:
            yield
        except Exception as error:
            for job in jobs:
                self._forget(job)
                for asked in job.asked:
                    give(asked.future, error)
            raise

    def _answer(self, asked: Asked) -> None:
        answer = self._engine.decoded(asked.prompt, asked.key)
        if _told(asked, [generation.tokens for generation in answer.generations]):
            give(asked.future, answer)

    def _forget(self, job: Job) -> None:
        for key in (job.key, job.key.greedy):
            if self._by_key.get(key) is job:
                del self._by_key[key]


def _told(asked: Asked, outputs: Sequence[Sequence[int]]) -> bool:
    """Tell somebody; False if their ``on_tokens`` failed, which is their own error alone."""
    try:
        asked.tell(outputs)
    except Exception as error:
        give(asked.future, error)
        return False
    return True


def give(future: Future[Answer], result: Answer | Exception) -> None:
    """Set a future's result or exception, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
