"""Chat and text completions and models, as the ``openai`` client reads them."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Template
from flowtune_cli.gateway.client import async_client
from flowtune_cli.nodes import Judge
from support.chat_flows import USER, echo, error_of, play_program, result_of
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.scripted_chat import chat, saying

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def call_weather(text: str, output: int) -> str:
    return 'Let me see. CALL weather {"city": "Bern"}CALL weather {"city": "Rom"}'


def create(**more: Any) -> Any:
    """A program of one request of /chat/completions."""

    async def program(client: Any) -> Any:
        return await client.chat.completions.create(**{"model": "draft", "messages": USER, **more})

    return program


def stream(**more: Any) -> Any:
    """The same, read as chunks."""

    async def program(client: Any) -> Any:
        return [chunk async for chunk in await create(stream=True, **more)(client)]

    return program


def test_a_chat_completion() -> None:
    got: ChatCompletion = result_of(create())
    (choice,) = got.choices
    assert choice.message.content == "you said hello"
    assert choice.message.role == "assistant"
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert got.model == "draft"
    assert got.id.startswith("chatcmpl-")
    assert got.usage is not None
    assert got.usage.completion_tokens == 3
    assert got.usage.total_tokens == got.usage.prompt_tokens + 3


def test_ids_and_times_are_those_of_the_call_and_no_others() -> None:
    async def program(client: Any) -> Any:
        first = await create()(client)
        second = await create()(client)
        other = await create(model="check")(client)
        return [(each.id, each.created) for each in (first, second, other)]

    made = result_of(program)
    assert len(set(made)) == len({each for each, _ in made}) == 3
    assert result_of(program) == made


def test_what_changes_no_answer_changes_no_key() -> None:
    async def program(client: Any) -> Any:
        first = await create()(client)
        return first.id

    async def labelled(client: Any) -> Any:
        first = await create(user="me", metadata={"a": "b"}, store=False, n=1)(client)
        return first.id

    async def streamed(client: Any) -> Any:
        chunks = await stream()(client)
        return chunks[0].id

    assert result_of(program) == result_of(labelled) == result_of(streamed)


def test_an_answer_that_was_cut_says_so() -> None:
    got = result_of(create(max_tokens=2))
    assert got.choices[0].finish_reason == "length"
    assert got.choices[0].message.content == "you said"
    assert result_of(create(max_completion_tokens=2)).choices == got.choices


def test_chunks_make_up_the_answer() -> None:
    got = result_of(stream(stream_options={"include_usage": True}, logprobs=True))
    whole = result_of(create(logprobs=True))
    assert [chunk.choices[0].delta.content for chunk in got[:-2]] == ["", "you ", "said ", "hello"]
    assert got[-2].choices[0].finish_reason == "stop"
    assert got[-1].choices == []
    assert got[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in got[:-1])
    assert {(chunk.id, chunk.created, chunk.model) for chunk in got} == {
        (whole.id, whole.created, "draft")
    }
    said = [t.token for chunk in got[:-1] for t in (chunk.choices[0].logprobs or _None).content]
    assert said == [each.token for each in whole.choices[0].logprobs.content]
    assert all(chunk.usage is None for chunk in result_of(stream()))


class _None:
    content: tuple[Any, ...] = ()


def test_tool_calls_whole_and_in_chunks() -> None:
    got = result_of(create(tools=[WEATHER], tool_choice="auto"), call_weather)
    message = got.choices[0].message
    assert got.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see. "
    assert [json.loads(call.function.arguments)["city"] for call in message.tool_calls] == [
        "Bern",
        "Rom",
    ]
    assert len({call.id for call in message.tool_calls}) == 2
    assert all(re.fullmatch("[a-z0-9]{9}", call.id) for call in message.tool_calls)

    async def streamed(client: Any) -> Any:
        more: Any = {"model": "draft", "messages": USER, "tools": [WEATHER], "tool_choice": "auto"}
        async with client.chat.completions.stream(**more) as events:
            async for _ in events:
                pass
            return await events.get_final_completion()

    finished = result_of(streamed, call_weather)
    assert finished.id == got.id
    assert [c.model_dump(exclude={"index": True, "function": {"parsed_arguments"}}) for c in
            finished.choices[0].message.tool_calls] == [
        c.model_dump() for c in message.tool_calls
    ]  # fmt: skip


def test_an_agent_sends_answers_and_results_back() -> None:
    def script(text: str, output: int) -> str:
        return f"It is {text}." if text == "12°" else 'CALL weather {"city": "Bern"}'

    def program(sent_back: Any) -> Any:
        async def agent(client: Any) -> Any:
            messages: list[Any] = [{"role": "developer", "content": "Be short."}, *USER]
            got = await create(messages=messages, tools=[WEATHER])(client)
            message = got.choices[0].message
            assert message.content is None
            result = {
                "role": "tool",
                "tool_call_id": message.tool_calls[0].id,
                "content": [{"type": "text", "text": "12°"}],
            }
            messages += [sent_back(message), result]
            after = await create(messages=messages, tools=[WEATHER])(client)
            return after.choices[0].message.content

        return agent

    assert result_of(program(lambda message: message), script) == "It is 12°."
    assert result_of(program(lambda message: message.model_dump()), script) == "It is 12°."
    kept = {"exclude_unset": True}
    assert result_of(program(lambda m: m.model_dump(**kept)), script) == "It is 12°."


def test_an_answer_in_a_schema_is_parsed() -> None:
    class Place(BaseModel):
        city: str

    async def program(client: Any) -> Any:
        got = await client.chat.completions.parse(
            model="draft", messages=USER, response_format=Place
        )
        message = got.choices[0].message
        sent = {"role": "assistant", "content": message.content, "parsed": {"city": "Bern"}}
        await create(messages=[*USER, sent, *USER])(client)
        return message.parsed

    episode = play_program(program, lambda text, output: '{"city": "Bern"}')
    assert episode.failure is None, episode.failure.traceback
    assert episode.result == Place(city="Bern")
    constraint = json.loads(episode.steps[0].prompt_text)["constraint"]
    assert constraint["kind"] == "json_schema"
    assert json.loads(constraint["value"]) == {**Place.model_json_schema(),
                                               "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"kind": "json_object", "value": ""}),
        (
            {"extra_body": {"structured_outputs": {"regex": "a+"}}},
            {"kind": "regex", "value": "a+"},
        ),
        (
            {"extra_body": {"structured_outputs": {"choice": ["a", "b"]}}},
            {"kind": "choice", "value": '["a", "b"]'},
        ),
    ],
)
def test_other_constraints(asked: Any, constraint: Any) -> None:
    episode = play_program(create(**asked))
    assert json.loads(episode.steps[0].prompt_text).get("constraint") == constraint


def test_what_the_node_gets() -> None:
    asked = {
        "temperature": 0,
        "top_p": 0.5,
        "stop": "x",
        "seed": 3,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 9,
    }
    episode = play_program(create(**asked))
    assert json.loads(episode.steps[0].prompt_text) == {
        **asked,
        "stop": ["x"],
        "messages": USER,
    }
    assert json.loads(play_program(create()).steps[0].prompt_text) == {"messages": USER}


def test_equal_sampled_requests_get_samples_of_their_own() -> None:
    async def program(client: Any) -> Any:
        made = await asyncio.gather(*[create(temperature=1)(client) for _ in range(3)])
        return [each.choices[0].message.content for each in made]

    assert len(set(result_of(program))) == 3
    assert result_of(program) == result_of(program)


def test_a_text_completion_whole_and_in_chunks() -> None:
    async def program(client: Any) -> Any:
        ask = {"model": "draft", "prompt": "hello", "logprobs": 0}
        whole = await client.completions.create(**ask)
        options = {"include_usage": True}
        made = await client.completions.create(**ask, stream=True, stream_options=options)
        return whole, [chunk async for chunk in made]

    whole, chunks = result_of(program)
    assert whole.choices[0].text == "you said hello"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].logprobs.tokens == ["you ", "said ", "hello "]
    assert whole.choices[0].logprobs.text_offset == [0, 4, 9]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "you said hello"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage


def test_models_are_the_chat_nodes() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        client = async_client(episode)
        listed = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("draft")
        with pytest.raises(openai.NotFoundError, match=r"The nodes of this task are: draft\."):
            await client.models.retrieve("judge")
        return listed, one.owned_by

    judge = Judge(name="judge", prompt=Template(user="{x}"), labels=("a", "b"))
    episode = run_play(FakeEngine(saying(echo)), FlowTask([chat("draft"), judge], flow))
    assert episode.result == (["draft"], "flowtune")


def test_an_unknown_model_lists_those_declared() -> None:
    error = error_of(create(model="drafd"))
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"
    assert error.param == "model"
    message = "Did you mean 'draft'? The nodes of this task are: draft, check."
    assert message in error.message


def test_a_node_gives_no_embeddings() -> None:
    async def program(client: Any) -> Any:
        await client.embeddings.create(model="draft", input="hello")

    assert "declare a model to pass through" in error_of(program).message


def test_what_is_not_there_is_named() -> None:
    async def program(client: Any) -> Any:
        await client.responses.retrieve("resp_1")

    error = error_of(program)
    assert isinstance(error, openai.NotFoundError)
    assert "Nothing is kept between requests" in error.message


def test_letters_that_utf_8_does_not_have_come_back() -> None:
    got = result_of(create(logprobs=True), lambda text, output: "a\ud800b")
    assert got.choices[0].message.content == "a\ud800b"


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"properties": {"b": {}, "a": {}}, "type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    episode = play_program(create(response_format=form))
    value = json.loads(episode.steps[0].prompt_text)["constraint"]["value"]
    assert list(json.loads(value)["properties"]) == ["b", "a"]


def test_what_a_node_calls_no_request_is_the_program_s_error() -> None:
    error = error_of(create(messages=[{"role": "user", "content": "NO REQUEST"}]))
    assert isinstance(error, openai.BadRequestError)
    assert error.code == "invalid_value"
    assert "this is no request" in error.message


def test_a_refused_request_makes_no_call() -> None:
    async def program(client: Any) -> Any:
        with pytest.raises(openai.BadRequestError, match="n"):
            await create(n=2)(client)

    assert play_program(program).steps == []
