"""The outputs of one request, from the completions that servers return for it.

What ends an output, and its text, is decided here by the same code as where outputs are decoded
here: a server only goes on for long enough. So ``steps`` yields what is to be decoded next, at
once, and is sent what came of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence

from ..engine.rows import Output, TokenizedRequest, make_outputs
from ..flow.errors import FlowtuneError
from ..flow.request import Generation
from .departures import Path, follow
from .server import Ask, Written

Steps = Generator[list[Ask], list[Written], tuple[Generation, ...]]
MOST_GROUPS = 20
"""A server tells so many of the likeliest tokens, by default (``--max-logprobs``)."""


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
        tops: list[list[Mapping[int, float]]] = []
        tops.append((yield from self._finish(first, decoding.groups))[0])
        for number, output in enumerate(groups[1:], 1):
            earlier = [
                Path(group.tokens, top) for group, top in zip(groups[:number], tops, strict=True)
            ]
            departed = follow(earlier, decoding.diversity_penalty)
            for token, logprob in departed.tokens:
                self._add(output, token, logprob)
                if output.text is not None:
                    break
            top = departed.top
            if output.text is None:
                top = top + (yield from self._finish([output], decoding.groups))[0]
            tops.append(top)
        return tuple(output.generation for output in outputs)

    def _finish(
        self, outputs: Sequence[Output], groups: int
    ) -> Generator[list[Ask], list[Written], list[list[Mapping[int, float]]]]:
        """Go on with outputs to their ends; returns the likeliest tokens in each new place."""
        tops: list[list[Mapping[int, float]]] = [[] for _ in outputs]
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


def _seed(output: Output) -> int:
    """From the request's seed, the output's number and its place alone."""
    what = (*output.request.seed, output.number, len(output.tokens))
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
