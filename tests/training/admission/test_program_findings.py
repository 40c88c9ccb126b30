"""What the admission check finds in programs: errors that they caught, calls that were not made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.app import Gateway
from flowtune_cli.gateway.client import async_client
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.training.admission.examine import Refused, admit, examine
from flowtune_cli.training.admission.finding import Finding
from support.fake_engine import FakeEngine, FlowTask, run_deviate
from support.scripted_chat import chat, saying

Program = Callable[[Any, Example], Coroutine[Any, Any, Any]]

EXAMPLES = [Example(f"e{n}", {"question": f"question {n}"}, gold=f"gold {n}") for n in range(2)]


async def ask(client: Any, content: str, model: str = "draft", **more: Any) -> Any:
    return await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], **more
    )


def text_of(answer: Any) -> str:
    text: str = answer.choices[0].message.content
    return text


def played(program: Program, examples: Any = EXAMPLES) -> tuple[Any, list[Any]]:
    async def flow(episode: Episode, example: Example) -> Any:
        result = await program(async_client(episode, Gateway()), example)
        episode.reward("reward", float(str(result)[-1:] == "1"))
        return result

    task = FlowTask([chat("draft")], flow)
    engine = FakeEngine(saying(lambda text, output: f"{output}"))
    return task, [run_deviate(engine, task, example=example) for example in examples]


def found(program: Program, examples: Any = EXAMPLES) -> list[Finding]:
    task, traces = played(program, examples)
    return examine(task, traces, [], limits=NO_LIMITS)


def admitted(program: Program, examples: Any = EXAMPLES) -> list[Finding]:
    task, traces = played(program, examples)
    return admit(task, traces, limits=NO_LIMITS)


async def healthy(client: Any, example: Example) -> str:
    return text_of(await ask(client, example.question))


def catching(**asked: Any) -> Program:
    """Asks for something that there is not, and goes on."""

    async def program(client: Any, example: Example) -> str:
        draft = text_of(await ask(client, example.question))
        try:
            return text_of(await ask(client, draft, **asked))
        except openai.APIError:
            return draft

    return program


def test_a_healthy_program_has_no_findings() -> None:
    assert found(healthy) == []


def test_a_model_that_is_not_declared_and_an_error_that_was_caught() -> None:
    [finding] = found(catching(model="dratf"))
    assert (finding.code, finding.severity, finding.example) == ("model-not-found", "error", "e0")
    assert "the model 'dratf' does not exist. Did you mean 'draft'?" in finding.message
    assert f"{Path(__file__)}, line " in str(finding.place)
    with pytest.raises(Refused, match="'dratf' does not exist"):
        admitted(catching(model="dratf"))


def test_a_field_that_is_refused_and_an_error_that_was_caught() -> None:
    [finding] = found(catching(n=3))
    assert (finding.code, finding.severity) == ("request-failed", "warning")
    assert "the program went on after a request that failed: 'n': a node gives" in finding.message
    assert [each.code for each in admitted(catching(n=3))] == ["request-failed"]


def test_an_error_that_was_not_caught_is_told_once() -> None:
    async def program(client: Any, example: Example) -> str:
        return text_of(await ask(client, "x", n=3))

    assert [finding.code for finding in found(program)] == ["failed"]


def test_looking_whether_there_is_a_model_is_no_mistake() -> None:
    async def program(client: Any, example: Example) -> str:
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
        return await healthy(client, example)

    assert found(program) == []


def test_a_call_that_the_program_gives_up() -> None:
    """As a time limit of its own would: no call is answered before all have been made."""

    async def program(client: Any, example: Example) -> str:
        draft = await healthy(client, example)
        second = asyncio.ensure_future(ask(client, "once more"))
        for _ in range(50):
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        return draft

    [finding] = found(program)
    assert (finding.code, finding.severity, finding.count) == ("call-given-up", "warning", 2)
    assert finding.message.startswith("the flow did not wait for calls of node 'draft'")
    assert [each.code for each in admitted(program)] == ["call-given-up"]


async def calls_none(client: Any, example: Example) -> str:
    return "from elsewhere"


def test_a_program_that_calls_no_node() -> None:
    several = [*EXAMPLES, *EXAMPLES]
    [finding] = found(calls_none, several)
    assert (finding.code, finding.severity) == ("no-calls", "error")
    assert finding.message == "the flow called no node in 4 episodes"
    assert "OPENAI_BASE_URL" in finding.advice
    with pytest.raises(Refused, match="called no node in 4 episodes"):
        admitted(calls_none, several)


def test_a_few_examples_may_need_no_node() -> None:
    assert [(each.code, each.severity) for each in admitted(calls_none)] == [
        ("no-calls", "warning")
    ]


def test_a_program_that_keeps_its_answers_is_refused() -> None:
    kept: dict[str, str] = {}

    async def program(client: Any, example: Example) -> str:
        if example.question not in kept:
            kept[example.question] = await healthy(client, example)
        return kept[example.question]

    with pytest.raises(Refused, match="node 'draft' is called less often when the flow is played"):
        admitted(program)


@pytest.mark.parametrize("shown", ["answer", "message", "messages", "coroutine"])
def test_an_object_in_a_prompt(shown: str) -> None:
    async def program(client: Any, example: Example) -> str:
        answer = await ask(client, example.question)
        waiting = healthy(client, example)
        objects = {
            "answer": answer,
            "message": answer.choices[0].message,
            "messages": [{"role": "user", "content": example.question}],
            "coroutine": "<coroutine object healthy at 0x7f3a5c0f1e40>",
        }
        waiting.close()
        return text_of(await ask(client, f"Mend this: {objects[shown]}"))

    [finding] = [each for each in found(program) if each.code == "object-shown"]
    assert finding.message.startswith("node 'draft' is shown a Python object in place of its text:")
    assert (finding.severity, finding.count) == ("warning", 2)
    assert [each.code for each in admitted(program)] == ["object-shown"]


def test_an_object_in_every_prompt_is_refused() -> None:
    async def program(client: Any, example: Example) -> str:
        return text_of(await ask(client, f"{[{'role': 'user', 'content': example.question}]}"))

    with pytest.raises(Refused, match="is shown a Python object in place of its text"):
        admitted(program)


def test_an_object_as_a_result() -> None:
    async def program(client: Any, example: Example) -> Any:
        answer = await ask(client, example.question)
        return {"text": str(answer.choices[0].message), "n": text_of(answer)}

    [finding] = [each for each in found(program) if each.code == "object-shown"]
    assert finding.message.startswith("the flow's result is a Python object in place of its text:")


def test_texts_about_python_are_no_objects() -> None:
    about = Example(
        "e0", {"question": "What is <function f at 0x7f3a5c0f1e40>?"}, gold="a function"
    )
    assert found(healthy, [about]) == []
