"""The engine whose outputs servers of vLLM decode; all else is computed here.

Prompts go to the servers as token ids, so that templates, truncation and what data may spell out
are those of the local engine, and tokens come back as they were decoded: they are what is learned.
Answers are remembered by the local engine, as its own.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..engine.engine import DecodeKey, ModelEngine
from ..engine.rows import TokenizedRequest
from ..flow.errors import UsageError
from ..flow.request import GREEDY, Answer, DecodeRequest, Refusal, Request
from .child import Child
from .driver import Driver, Ended, Failed, Piece
from .fleet import Fleet
from .outputs import Writer
from .published import Published
from .session import RolloutSession
from .watch import Seen, Watch

_POLL_SECONDS = 0.5
_PROBES = (
    "The capital of France is Paris, and the capital of Italy is",
    "def add(a, b):\n    return",
    "1, 2, 4, 8, 16,",
)
"""What all servers write on from, to see that they have the same base model."""
_PROBE_TOKENS = 16


class VllmEngine:
    """Answers requests; those to decode are sent to servers.

    Args:
        local: the engine with the model and the adapters.
        fleet: the servers.
        child: the one that was started for it, and ends with it.

    Attributes:
        mixes_adapters: servers put requests for different adapters into one batch.

    Raises:
        UsageError: a server does not answer, or reads less than ``local``.
        FlowtuneError: it has another base model or dtype.
    """

    mixes_adapters = True

    def __init__(self, local: ModelEngine, fleet: Fleet, child: Child | None = None) -> None:
        self.local = local
        self._child = child
        self.fleet = fleet
        self.writer = Writer(local.decoder.end, local.decoder.maybe_end)
        self.watch = Watch(local.adapters)
        self._published: Published | None = None
        self._told_of_local = False
        self._meet()

    def _meet(self) -> None:
        context = self.local.tokens.context
        for url, served in zip(self.fleet.urls, self.fleet.wait(self.fleet.meet()), strict=True):
            if served.context is not None and served.context < context:
                raise UsageError(
                    f"{url} reads {served.context} tokens, and this run {context}: start it with"
                    f" --max-model-len {context}, or set model.context = {served.context}"
                )
        for url in self.fleet.urls:
            for text in _PROBES:
                self._probe(url, text)

    def _probe(self, url: str, text: str) -> None:
        """See that a server has the base model; alone, as servers mix up what is in one batch."""
        ids = self.local.tokens.completion(text)
        request = TokenizedRequest(ids, _PROBE_TOKENS, (), GREEDY, ())
        driver = Driver(self.fleet)
        driver.start(text, None, self.writer.steps(request), only=url)
        while driver:
            for each in driver.ended(_POLL_SECONDS):
                if isinstance(each, Failed):
                    raise each.error
                self._look(None, each.pieces, every=True)

    @property
    def is_open(self) -> bool:
        """Whether servers hold the adapters, so that requests may be sent."""
        return self._published is not None

    @contextmanager
    def publishing(self, directory: Path, label: str) -> Iterator[None]:
        """Have the servers hold the adapters while the block lasts.

        Args:
            directory: where adapters are written, for servers to read.
            label: with which their names begin.

        Raises:
            UsageError: a server cannot read them; says what to change.
        """
        label = re.sub(r"[^\w.-]", "-", label)
        label = f"{label}-{zlib.crc32(str(directory.absolute()).encode()):08x}"
        published = Published(self.local.adapters, self.fleet, directory, label)
        published.begin()
        try:
            for name in self.local.adapters.names:
                published.name(name)
            self._published = published
            yield
        finally:
            self._published = None
            self.fleet.check = lambda: None  # what ends is not ended again
            published.end()

    def goes_there(self, request: Request) -> bool:
        """Whether a request is sent to servers."""
        if not isinstance(request, DecodeRequest) or request.model is not None:
            return False
        prefix = request.adapter is not None and request.prompt.frozen_prefix
        if (prefix or request.constraint is not None) and not self._told_of_local:
            self._told_of_local = True
            why = (
                "prompts with a frozen prefix, which the base model reads without the adapter,"
                if prefix
                else "outputs under a constraint"
            )
            print(f"vLLM: {why} are decoded here", file=sys.stderr, flush=True)
        return not prefix and request.constraint is None

    def begin(self, driver: Driver, keys: Sequence[DecodeKey]) -> None:
        """Send requests to servers, each under its own key; their adapters are loaded first."""
        assert self._published is not None, "the servers hold no adapters yet"
        adapters = dict.fromkeys(key.adapter for key in keys)
        models = {adapter: self._published.name(adapter) for adapter in adapters}
        for key in keys:
            driver.start(key, models[key.adapter], self.writer.steps(key.request))

    def end(self, ended: Ended) -> None:
        """Look at what servers decoded.

        Raises:
            FlowtuneError: they do not decode with the weights that are meant.
        """
        key = ended.key
        assert isinstance(key, DecodeKey)
        self._look(key.adapter, ended.pieces)

    def _look(self, node: str | None, pieces: Sequence[Piece], every: bool = False) -> None:
        previous = self._published.previous.get(node or "") if self._published else None
        for _, before, written in pieces:
            if every or self.watch.wants(node, written.server):
                seen = Seen(before, written.tokens, written.logprobs, written.server)
                self.watch.see(node, seen, None if previous is None else previous.weights)

    def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer a request, in their order."""
        there = [i for i, request in enumerate(requests) if self.goes_there(request)]
        found: dict[int, Answer] = {}
        asked = {}
        for i in there:
            request = requests[i]
            assert isinstance(request, DecodeRequest)
            tokenized = self.local.refuse_or_tokenize(request)
            if isinstance(tokenized, Refusal):
                found[i] = tokenized
            else:
                asked[i] = tokenized
        keys = [key for _, key in asked.values()]
        covered = {key.first for key in keys if key != key.first}
        missing = [
            key
            for key in dict.fromkeys(keys)
            if self.local.remembered(key) is None and key not in covered
        ]
        driver = Driver(self.fleet)
        try:
            self.begin(driver, missing)
            here = [i for i in range(len(requests)) if i not in found and i not in asked]
            if here:
                answers = self.local.answer([requests[i] for i in here])
                found.update(zip(here, answers, strict=True))
            while driver:
                for each in driver.ended(_POLL_SECONDS):
                    if isinstance(each, Failed):
                        raise each.error
                    self.end(each)
                    assert isinstance(each.key, DecodeKey)
                    self.local.remember(each.key, each.generations)
                self.fleet.check()
        finally:
            driver.cancel_all()
        for i, tokenized in asked.items():
            found[i] = self.local.decoded(*tokenized)
        return [found[i] for i in range(len(requests))]

    def session(self) -> RolloutSession:
        """Answers requests that come one after the other; see ``flow.request.EngineSession``."""
        return RolloutSession(self)

    def close(self) -> None:
        """Leave the servers; end the one that was started."""
        self.fleet.close()
        if self._child is not None:
            self._child.close()
