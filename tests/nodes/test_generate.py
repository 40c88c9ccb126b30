"""Generate: outputs, alternatives and targets."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from flowtune_cli.exploration import DiverseBeam, MultiSample
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.node import Score, Term, TextDatum
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.request import GREEDY, DecodeRequest
from flowtune_cli.nodes import Generate
from support.fake_engine import FakeEngine, writer


def writes(*texts: str) -> FakeEngine:
    return FakeEngine(lambda prompt, output: texts[output])


def token(word: str) -> int:
    return crc32(word.encode())


def test_greedy_output(respond: Any) -> None:
    engine = writes(" two words \n")
    node = writer("w", max_new_tokens=9, stop=("\n", "."))
    response = respond(engine, node, x=1)
    (output,) = response.outputs
    assert (output.value, output.text) == ("two words", "two words")
    assert not output.truncated
    assert (response.prompt, response.adapter_version) == ("<w:1>", 5)
    assert (response.prompt_tokens, response.dropped_tokens) == (3, 3)
    assert response.options == ()
    (request,) = engine.requests
    prompt = node.prompt.render({"x": 1}, node="w", reserve=9)
    expected = DecodeRequest("w", prompt, 9, ("\n", "."), GREEDY, (1, "id", 2))
    assert request == expected
    assert prompt.reserve == 9


def test_scores_hold_the_decoded_tokens(respond: Any) -> None:
    node = writer("w")
    response = respond(writes("one two", "three"), node, DiverseBeam(), x=1)
    prompt = node.prompt.render({"x": 1}, node="w", reserve=50)
    assert [output.score for output in response.outputs] == [
        Score((Term(prompt, (token("one"), token("two"))),)),
        Score((Term(prompt, (token("three"),)),)),
    ]
    assert [output.tokens for output in response.outputs] == [2, 1]
    assert [output.logprob for output in response.outputs] == [0.0, -1.0]


def test_equal_alternatives_count_once(respond: Any) -> None:
    engine = writes("a", "a ", "b", " b", "c", "d", "e")
    response = respond(engine, writer("w", alternatives=3), DiverseBeam(beams=7), x=1)
    assert [output.value for output in response.outputs] == ["a", "b", "c", "d"]
    # Of equal ones the first stays: the second " b" was the fourth generation.
    assert [output.logprob for output in response.outputs] == [0.0, -2.0, -4.0, -5.0]


@pytest.mark.parametrize("alternatives", [0, 1, 2, 5])
def test_at_most_as_many_alternatives_as_wanted(respond: Any, alternatives: int) -> None:
    engine = FakeEngine(lambda prompt, output: str(output))
    node = writer("w", alternatives=alternatives)
    response = respond(engine, node, DiverseBeam(beams=4), x=1)
    assert [output.value for output in response.outputs] == [
        str(n) for n in range(min(1 + alternatives, 4))
    ]


def test_alternatives_may_all_be_equal(respond: Any) -> None:
    response = respond(writes("a", "a", "a"), writer("w", alternatives=2), MultiSample(), x=1)
    assert [output.value for output in response.outputs] == ["a"]


def test_truncated_outputs_are_marked(respond: Any) -> None:
    node = writer("w", max_new_tokens=2)
    response = respond(writes("one two three", "one"), node, DiverseBeam(), x=1)
    assert [output.truncated for output in response.outputs] == [True, False]
    assert [output.text for output in response.outputs] == ["one two", "one"]


def test_shown_is_the_prompt() -> None:
    assert writer("w").prompt_text({"x": "y"}) == "w:y"


@pytest.mark.parametrize(
    ("template", "lead"),
    [
        (Template(user="{x}"), ""),
        (Template(user="{x}", prefill="So:"), " "),
        (Template(user="{x}", prefill="So:\n"), ""),
        (Template(user="Q: {x} A:", chat=False), " "),
        (Template(user="Q: {x}\nA: ", chat=False), ""),
        (Template(user="Q: {x}", prefill="A:\n", chat=False), ""),
    ],
)
def test_targets_follow_on_the_prompt(respond: Any, template: Template, lead: str) -> None:
    node = Generate(name="w", prompt=template, weight=0.5)
    response = respond(writes("wrong"), node, x=1)
    prompt = template.render({"x": 1}, node="w", reserve=50)
    assert node.target_data(response, " the gold\n") == [
        TextDatum("w", prompt, f"{lead}the gold", 0.5)
    ]


@pytest.mark.parametrize("gold", [None, 3, True, ["text"], "", "  "])
def test_targets_must_be_texts(respond: Any, gold: Any) -> None:
    node = writer("w")
    response = respond(writes("a"), node, x=1)
    with pytest.raises(UsageError, match="node 'w' learns from target texts"):
        node.target_data(response, gold)
