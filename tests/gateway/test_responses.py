"""The stateless /responses, as the ``openai`` client reads it."""

from __future__ import annotations

import json
from typing import Any

from support.chat_flows import play_program, result_of

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def create(**more: Any) -> Any:
    async def program(client: Any) -> Any:
        return await client.responses.create(**{"model": "draft", "input": "hello", **more})

    return program


def script(text: str, output: int) -> str:
    return f"It is {text}." if text == "12°" else 'I look. CALL weather {"city": "Bern"}'


def shown(episode: Any, step: int = 0) -> Any:
    return json.loads(episode.steps[step].prompt_text)


def test_a_response() -> None:
    got = result_of(create(instructions="Be short.", metadata={"a": "b"}))
    assert got.output_text == "you said hello"
    assert got.status == "completed"
    assert got.instructions == "Be short."
    assert got.metadata == {"a": "b"}
    assert got.usage.output_tokens == 3
    assert got.id.startswith("resp_")
    assert got.id == result_of(create(instructions="Be short.")).id
    assert got.id != result_of(create()).id
    assert got.parallel_tool_calls is True
    told = result_of(create(tools=[TOOL], parallel_tool_calls=False))
    assert told.parallel_tool_calls is False


def test_what_the_node_gets() -> None:
    asked = {"temperature": 0, "top_p": 0.5, "max_output_tokens": 7}
    form = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    choice = {"type": "function", "name": "weather"}
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    episode = play_program(
        create(instructions="s", text=form, tools=[TOOL], tool_choice=choice, include=include,
               store=False, **asked)
    )  # fmt: skip
    function = {name: TOOL[name] for name in ("name", "parameters")}
    assert shown(episode) == {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 7,
        "constraint": {"kind": "json_schema", "value": '{"type":"object"}'},
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }
    (item,) = episode.result.output
    assert [each.token for each in item.content[0].logprobs] == ["you ", "said ", "hello "]


def test_an_answer_that_was_cut_is_incomplete() -> None:
    got = result_of(create(max_output_tokens=2))
    assert got.status == "incomplete"
    assert got.incomplete_details.reason == "max_output_tokens"
    assert got.output_text == "you said"


def test_an_agent_sends_items_and_outputs_back() -> None:
    async def agent(client: Any) -> Any:
        items: list[Any] = [{"role": "user", "content": "hello"}]
        got = await create(input=items, tools=[TOOL])(client)
        text, call = got.output
        assert text.content[0].text == "I look. "
        output = [{"type": "input_text", "text": "12°"}]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": output}
        after = await create(input=[*items, *got.output, result], tools=[TOOL])(client)
        return after.output_text

    episode = play_program(agent, script)
    assert episode.result == "It is 12°."
    user, assistant, tool = shown(episode, 1)["messages"]
    assert user == {"role": "user", "content": "hello"}
    assert assistant["content"] == [{"type": "text", "text": "I look. "}]
    assert tool["tool_call_id"] == assistant["tool_calls"][0]["id"]


def test_events_make_up_the_response() -> None:
    async def program(client: Any) -> Any:
        more: Any = {"model": "draft", "input": "hello", "tools": [TOOL]}
        more["include"] = ["message.output_text.logprobs"]
        kinds = []
        async with client.responses.stream(**more) as events:
            async for event in events:
                kinds.append((event.sequence_number, event.type))
            return await events.get_final_response(), kinds

    streamed, kinds = result_of(program, script)
    include = ["message.output_text.logprobs"]
    whole = result_of(create(tools=[TOOL], include=include), script)
    assert [number for number, _ in kinds] == sorted({number for number, _ in kinds})
    assert kinds[0][1] == "response.created"
    assert kinds[-1][1] == "response.completed"
    assert streamed.id == whole.id
    assert streamed.output_text == whole.output_text == "I look. "
    assert streamed.output[1].call_id == whole.output[1].call_id
    assert streamed.output[1].arguments == whole.output[1].arguments
    assert streamed.usage == whole.usage


def test_an_incomplete_response_ends_its_events_so() -> None:
    async def program(client: Any) -> Any:
        events = await create(stream=True, max_output_tokens=2)(client)
        return [event.type async for event in events]

    assert result_of(program)[-1] == "response.incomplete"
