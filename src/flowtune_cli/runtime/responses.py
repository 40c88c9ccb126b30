"""Checks the numbers of a node's response, which a plugin's node may have computed itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..flow.node import NodeOutput, Response
from ..flow.numbers import real_number


def checked(node: str, response: Response) -> Response:
    """The response with numbers of Python's own types.

    Raises:
        ValueError: a number is not finite, or none; names the node, the output and the number.
    """
    outputs = {id(output): output for output in (*response.outputs, *response.options)}
    found = {key: _checked(node, output) for key, output in outputs.items()}
    if all(found[key] is output for key, output in outputs.items()):
        return response
    return replace(
        response,
        outputs=tuple(found[id(output)] for output in response.outputs),
        options=tuple(found[id(output)] for output in response.options),
    )


def _checked(node: str, output: NodeOutput) -> NodeOutput:
    numbers: dict[str, Any] = {}
    for name, value in _numbers(output):
        try:
            numbers[name] = real_number(value)
        except ValueError as error:
            shown = output.text if len(output.text) <= 60 else f"{output.text[:57]}..."
            raise ValueError(f"node '{node}': the {name} of its output '{shown}' {error}") from None
    same = type(output.logprob) in (float, type(None)) and type(output.tokens) is int
    return (
        output
        if same
        else replace(output, logprob=numbers.get("logprob"), tokens=int(numbers["tokens"]))
    )


def _numbers(output: NodeOutput) -> Iterator[tuple[str, Any]]:
    yield "tokens", output.tokens
    if output.logprob is not None:
        yield "logprob", output.logprob
    if output.score is not None:
        for name, value in output.score.features.items():
            yield f"feature '{name}'", value
        for term in output.score.terms:
            yield "coefficient of a term", term.coefficient
