"""Findings about Python objects where a text was meant: in what nodes are shown, and in results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from ...flow.deviation import Trace
from ...flow.episode import Episode
from .finding import Finding, Severity

_OBJECT = re.compile(
    # What has no text of its own, such as what was not awaited: <coroutine object ask at 0x7f...>
    r"<[A-Za-z_][^<>\n]{0,200} at 0x[0-9a-fA-F]{4,}>"
    # Answers of clients.
    r"|\b(?:ChatCompletion|ChatCompletionChunk|Completion|Response)\(id='[^\n]{0,80}"
    r"|\bChatCompletionMessage\(content=[^\n]{0,80}"
    r"|\bcontent='[^\n]{0,200}' additional_kwargs=\{"
    # Chat messages.
    r"|\{'role': '\w+', 'content': [^\n]{0,80}"
)
_MOST = 80


def object_findings(traces: Sequence[Trace]) -> Iterator[Finding]:
    """What looks like an object's name in Python, and does not stand in the example itself."""
    episodes = [trace.episode for trace in traces if trace.episode.failure is None]
    calls: dict[str, list[tuple[Episode, str | None]]] = {}
    for episode in episodes:
        for step in episode.steps:
            found = _object(step.prompt_text, episode)
            calls.setdefault(step.node, []).append((episode, found))
    for node, shown in calls.items():
        advice = (
            "Show it the text: write 'await' before what is asynchronous, and take an answer's own"
            " text, such as answer.choices[0].message.content."
        )
        yield from _finding(f"node '{node}' is shown", shown, advice, node)
    results = [(episode, _object(_text(episode.result), episode)) for episode in episodes]
    advice = "Return the text, such as answer.choices[0].message.content."
    yield from _finding("the flow's result is", results, advice, None)


def _finding(
    what: str, shown: Sequence[tuple[Episode, str | None]], advice: str, node: str | None
) -> Iterator[Finding]:
    found = [(episode, text) for episode, text in shown if text is not None]
    if not found:
        return
    episode, text = found[0]
    # What a tool has found may be about Python.
    severity: Severity = "error" if len(found) == len(shown) else "warning"
    yield Finding(
        "object-shown",
        severity,
        f"{what} a Python object in place of its text: {text}",
        advice,
        node=node,
        example=episode.example.id,
        count=len(found),
    )


def _object(text: str, episode: Episode) -> str | None:
    """The first that a text holds; None where it may have been read or written by somebody."""
    match = _OBJECT.search(text)
    if match is None:
        return None
    inputs = _text(dict(episode.example.inputs))
    found_by_tools = (effect.result or "" for effect in episode.effects)
    written = (step.output.text for step in episode.steps)
    if any(_OBJECT.search(each) for each in (inputs, *found_by_tools, *written)):
        return None
    found = match.group()
    return found if len(found) <= _MOST else f"{found[:_MOST]}..."


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda other: "")
