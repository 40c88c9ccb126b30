"""The outputs of one request, from the completions that servers return for it.

What ends an output, and its text, is decided here by the same code as where outputs are decoded
here: a server only goes on for long enough. So ``steps`` yields what is to be decoded next, at
once, and is sent what came of it.

A diverse group (see ``engine.choosing``) pays in each place for the tokens that earlier groups
chose there. Servers know no such thing. They write greedily, and tell the likeliest tokens in each
place: as many as there are groups, among which is the one that the group chooses, as it may pay for
all but one of them. Where that is another than the server wrote, the server goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from ..engine.rows import Output, TokenizedRequest, make_outputs
from ..flow.errors import FlowtuneError
from ..flow.request import Generation
from .server import Ask, Written

Steps = Generator[list[Ask], list[Written], tuple[Generation, ...]]
MOST_GROUPS = 20
"""A server tells so many of the likeliest tokens, by default (``--max-logprobs``)."""


Top = Mapping[int, float]
"""The likeliest tokens in a place, with their log-probabilities."""


class _Path(NamedTuple):
    """A group's tokens, and the likeliest ones in the place of each."""

    tokens: Sequence[int]
    tops: Sequence[Top]


class Writer:
    """Has outputs decoded.

    Args:
        end: the tokens that end an output.
        maybe_end: gives an output its text if its last token ends it.
    """

    def __init__(self, end: frozenset[int], maybe_end: Callable[[Output], None]) -> None:
        self._end = end
        self._maybe_end = maybe_end

    def steps(self, request: TokenizedRequest) -> Steps:
        """The generations of a request: the groups first, then the samples.

        Raises:
            FlowtuneError: there are more groups than a server tells likeliest tokens.
        """
        decoding = request.decoding
        outputs = make_outputs(0, request)
        if decoding.groups > MOST_GROUPS:
            raise FlowtuneError(
                f"{decoding.groups} diverse groups are too many for vLLM, which tells the"
                f" {MOST_GROUPS} likeliest tokens: take fewer 'beams' or alternatives, or"
                " exploration = 'multi_sample'"
            )
        groups, samples = outputs[: decoding.groups], outputs[decoding.groups :]
        first = [*groups[:1], *samples]
        tops = yield from self._finish(first, decoding.groups)
        earlier = [_Path(group.tokens, top) for group, top in zip(groups[:1], tops, strict=False)]
        for output in groups[1:]:
            top = yield from self._diversify(output, earlier)
            earlier.append(_Path(output.tokens, top))
        return tuple(output.generation for output in outputs)

    def _diversify(
        self, output: Output, earlier: Sequence[_Path]
    ) -> Generator[list[Ask], list[Written], list[Top]]:
        """Write a group to its end; returns the likeliest tokens in each place."""
        tops: list[Top] = []
        # What a server wrote from here on, with the likeliest tokens in each place.
        ahead: list[tuple[int, Top]] = []
        same = list(earlier)
        while output.text is None:
            place = len(output.tokens)
            same = [path for path in same if place < len(path.tokens)]
            if not ahead and not same:
                (written,) = yield [self._ask(output, output.request.decoding.groups, True)]
                ahead = list(zip(written.tokens, written.top, strict=True))
            top = ahead[0][1] if ahead else same[0].tops[place]
            paid = [path.tokens[place] for path in earlier if place < len(path.tokens)]
            token = _choose(top, paid, output.request.decoding.diversity_penalty)
            self._add(output, token, top[token])
            tops.append(top)
            same = [path for path in same if path.tokens[place] == token]
            ahead = ahead[1:] if ahead and ahead[0][0] == token else []
        return tops

    def _finish(
        self, outputs: Sequence[Output], groups: int
    ) -> Generator[list[Ask], list[Written], list[list[Top]]]:
        """Go on with outputs to their ends; returns the likeliest tokens in each new place."""
        tops: list[list[Top]] = [[] for _ in outputs]
        stops = True
        while True:
            open_ = [n for n, output in enumerate(outputs) if output.text is None]
            if not open_:
                return tops
            found = yield [self._ask(outputs[n], groups, stops) for n in open_]
            for n, written in zip(open_, found, strict=True):
                for token, logprob in zip(written.tokens, written.logprobs, strict=True):
                    self._add(outputs[n], token, logprob)
                    if outputs[n].text is not None:
                        break
                tops[n] += written.top
            # A server looks for stop strings in another text than ours: where it has found one
            # that is none here, it goes on without them.
            stops = False

    def _ask(self, output: Output, groups: int, stops: bool) -> Ask:
        request = output.request
        sampled = output.generator is not None
        decoding = request.decoding
        return Ask(
            (*request.prompt, *output.tokens),
            request.max_new_tokens - len(output.tokens),
            self._end,
            request.stop if stops else (),
            decoding.temperature if sampled else 0.0,
            decoding.top_p if sampled else 1.0,
            _seed(output) if sampled else 0,
            groups if groups > 1 and output.number < groups else 0,
        )

    def _add(self, output: Output, token: int, logprob: float) -> None:
        output.tokens.append(token)
        output.logprobs.append(logprob)
        self._maybe_end(output)


def _choose(top: Top, paid: Sequence[int], penalty: float) -> int:
    """The likeliest token after paying for those that earlier groups chose."""

    def value(token: int) -> tuple[float, int]:
        return top[token] - penalty * paid.count(token), -token

    return max(top, key=value)


def _seed(output: Output) -> int:
    """From the request's seed, the output's number and its place alone."""
    what = (*output.request.seed, output.number, len(output.tokens))
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
