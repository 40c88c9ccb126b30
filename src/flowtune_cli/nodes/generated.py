"""What nodes that generate text have in common: their response, and targets that are texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..flow.errors import UsageError
from ..flow.node import NodeOutput, Response, Score, Term
from ..flow.prompt import Prompt
from ..flow.request import Constraint, Decoded, Generation


def response_of(
    decoded: Decoded,
    prompt: Prompt,
    read: Callable[[Generation], tuple[object, Any, str]],
    alternatives: int,
    constraint: Constraint | None = None,
) -> Response:
    """The response with what was generated, what reads alike once.

    Args:
        prompt: that of the request, under which the outputs are learned.
        read: what tells an output from others, its value, and how it is displayed.
        alternatives: the most that there are besides the first output.
        constraint: that of the request.
    """
    outputs: dict[object, NodeOutput] = {}
    for generation in decoded.generations:
        meaning, value, text = read(generation)
        if meaning in outputs or len(outputs) > alternatives:
            continue
        outputs[meaning] = NodeOutput(
            value=value,
            text=text,
            score=Score((Term(prompt, generation.tokens, constraint=constraint),)),
            logprob=generation.logprob,
            tokens=generation.length,
            truncated=generation.truncated,
        )
    return Response(
        prompt=decoded.prompt,
        outputs=tuple(outputs.values()),
        adapter_version=decoded.adapter_version,
        prompt_tokens=decoded.prompt_tokens,
        dropped_tokens=decoded.dropped_tokens,
    )


def prompt_of(response: Response) -> Prompt:
    """The prompt of a response that ``response_of`` made."""
    score = response.outputs[0].score
    assert score is not None
    return score.terms[0].prompt


def constraint_of(response: Response) -> Constraint | None:
    """The constraint of a response that ``response_of`` made."""
    score = response.outputs[0].score
    assert score is not None
    return score.terms[0].constraint


def target_text(node: str, gold: Any, what: str = "texts") -> str:
    """A target that is a text, without white space around it.

    Raises:
        UsageError: it is none, or empty.
    """
    if not isinstance(gold, str) or not gold.strip():
        raise UsageError(f"node '{node}' learns from target {what}; got {gold!r} instead of one")
    return gold.strip()
