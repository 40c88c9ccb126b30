"""ScriptedEngine: answers the requests of nodes from a script instead of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from ..flow.errors import UsageError
from ..flow.request import (
    Answer,
    Decoded,
    DecodeRequest,
    Generation,
    Likelihood,
    Request,
    Scored,
    ScoreRequest,
)
from ..flow.surrogates import escaped

if TYPE_CHECKING:
    from ..models.tool_calls import Parsed

Write = Callable[[str, str, int], "str | None"]
Score = Callable[[str, str, str], float]


class ScriptedEngine:
    """Answers requests from a script, and records them.

    Scripts name a node by the adapter of its requests: ``""`` is the base model, which answers for
    nodes with ``learn="nothing"`` and for evaluators. A prompt is what ``Prompt.text`` returns. A
    token is a word: ``max_new_tokens`` truncates a text after so many words, and a text ends before
    the first of the request's stop strings. After a prompt with tools, a text may call some:
    ``<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>``. Constraints are left to the
    script to keep.

    Args:
        write: what a node generates: ``write(node, prompt, output)`` returns the text of an output,
            where 0 is the one that the flow gets, or None where there are no further ones. Or a
            mapping: a text or a list of texts (the flow's first) for each node. By default a
            small number that depends on the prompt and the output alone.
        score: the log-likelihood of a whole completion, in nats: ``score(node, prompt,
            completion)``. Or a mapping: for each node, the log-likelihood of each completion,
            without surrounding spaces. By default a number that depends on the prompt and the
            completion alone.
        head: for each node, the learned parameters that its answers report; nodes that are missing
            keep their initial ones.

    Attributes:
        batches: the requests of every call of ``answer``, in order.

    Raises:
        UsageError: a mapping does not have the node or completion of a request.
    """

    def __init__(
        self,
        write: Write | Mapping[str, str | Sequence[str]] | None = None,
        score: Score | Mapping[str, Mapping[str, float]] | None = None,
        head: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.write: Write = _writer(write) if isinstance(write, Mapping) else write or _number
        self.score: Score = _scorer(score) if isinstance(score, Mapping) else score or _likelihood
        self.head = head or {}
        self.batches: list[list[Request]] = []

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order."""
        return [request for batch in self.batches for request in batch]

    def answer(self, requests: list[Request]) -> list[Answer]:
        """See ``flowtune_cli.Engine``."""
        self.batches.append(requests)
        return [
            self._decode(request) if isinstance(request, DecodeRequest) else self._score(request)
            for request in requests
        ]

    def _decode(self, request: DecodeRequest) -> Decoded:
        node, prompt = request.adapter or "", request.prompt.text
        generations: list[Generation] = []
        for output in range(request.decoding.outputs):
            text = self.write(node, prompt, output)
            if text is None:
                break
            for stop in request.stop:
                text = text.partition(stop)[0]
            words = text.split(" ")
            kept = words[: request.max_new_tokens]
            truncated = len(kept) < len(words)
            written = " ".join(kept)
            found = _tool_calls(written) if request.prompt.tools and not truncated else None
            generations.append(
                Generation(
                    text=written if found is None else found.text,
                    tokens=tuple(crc32(escaped(word).encode()) for word in kept),
                    logprob=-float(output),
                    truncated=truncated,
                    tool_calls=() if found is None else found.calls,
                    written="" if found is None else written,
                    token_logprobs=tuple((w, 0.0) for w in kept) if request.logprobs else None,
                )
            )
        if not generations:
            raise UsageError(f"the script writes nothing for node '{node}' after: {prompt!r}")
        return Decoded(prompt, len(prompt.split()), 0, tuple(generations), adapter_version=0)

    def _score(self, request: ScoreRequest) -> Scored:
        node = request.adapter or ""
        return Scored(
            prompts=tuple(prompt.text for prompt, _ in request.items),
            prompt_tokens=sum(len(prompt.text.split()) for prompt, _ in request.items),
            dropped_tokens=0,
            likelihoods=tuple(
                tuple(
                    Likelihood(self.score(node, prompt.text, text), len(text.split()))
                    for text in completions
                )
                for prompt, completions in request.items
            ),
            adapter_version=0,
            head=self.head.get(node, {}),
        )


def digest(*parts: object) -> int:
    """A number that depends on nothing but the arguments, in every process."""
    return crc32(repr(parts).encode())


def _number(node: str, prompt: str, output: int) -> str:
    # Few different numbers, so that rollouts meet again and outputs repeat.
    return str(digest(prompt, output) % 7)


def _likelihood(node: str, prompt: str, completion: str) -> float:
    return -(digest(prompt, completion) % 1000) / 100


def _writer(texts: Mapping[str, str | Sequence[str]]) -> Write:
    def write(node: str, prompt: str, output: int) -> str | None:
        if node not in texts:
            raise UsageError(_missing("texts", node, texts))
        written = texts[node]
        outputs = [written] if isinstance(written, str) else written
        return outputs[output] if output < len(outputs) else None

    return write


def _scorer(scores: Mapping[str, Mapping[str, float]]) -> Score:
    def score(node: str, prompt: str, completion: str) -> float:
        if node not in scores:
            raise UsageError(_missing("scores", node, scores))
        try:
            return scores[node][completion.strip()]
        except KeyError:
            raise UsageError(
                f"the script has no score of {completion.strip()!r} for node '{node}';"
                f" it has: {', '.join(map(repr, scores[node])) or 'none'}"
            ) from None

    return score


def _tool_calls(text: str) -> Parsed | None:
    from ..models.tool_calls import parse_hermes

    return parse_hermes(text, {})


def _missing(what: str, node: str, script: Mapping[str, object]) -> str:
    name = f"node '{node}'" if node else "the base model ('')"
    return f"the script has no {what} for {name}; it has: {', '.join(script) or 'none'}"
