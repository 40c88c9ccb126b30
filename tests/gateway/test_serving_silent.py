"""What a served flow would have ignored or cut without a word: it is refused, told, or honoured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.task import Task
from flowtune_cli.nodes import Chat, Generate, Judge
from support.served import Served, served
from support.stepping_engine import SteppingEngine

TEXT = ["a text"]


class Story(Task):
    """Its result is what a function makes of what a node wrote."""

    name = "story"
    text_input = "topic"
    nodes: Any = (
        Generate(name="write", prompt=Template("About {topic}"), max_new_tokens=3),
        Generate(name="title", prompt=Template("{topic} in {words} words")),
        Judge(name="good", prompt=Template("Good? {text}")),
        Chat(name="talk", temperature=0.8),
    )
    result: Callable[[str], Any] = staticmethod(lambda text: text)

    def examples(self, source: Path | None, split: str) -> Any:
        raise NotImplementedError

    async def run(self, episode: Episode, example: Example) -> Any:
        if example.topic == "chat":
            said = await episode.call("talk", messages=[{"role": "user", "content": "hi"}])
            return said.text
        return type(self).result(await episode.call("write", topic=example.topic))


def story(made: Callable[[str], Any]) -> Story:
    return type("Other", (Story,), {"result": staticmethod(made)})()


def engine(text: str = "once upon") -> SteppingEngine:
    return SteppingEngine(lambda node, prompt, output: text)


def asked(made: Served, model: str, *contents: str, **more: Any) -> Any:
    """The answer to a chat whose last message is a user's; those before have other roles, too."""
    roles = ["system", "user", "assistant", "user"][-len(contents) :]
    pairs = zip(roles, contents, strict=True)
    messages: Any = [{"role": role, "content": content} for role, content in pairs]

    async def program(client: Any) -> Any:
        return await client.chat.completions.create(model=model, messages=messages, **more)

    return made.run(program).choices[0]


def refusal(made: Served, *given: str, **more: Any) -> str:
    with pytest.raises(openai.APIStatusError) as caught:
        asked(made, *given, **more)
    return f"{caught.value.status_code} {caught.value.message}"


def test_a_flow_that_reads_one_message_takes_no_others() -> None:
    with served(Story(), engine()) as made:
        said = refusal(made, "flow:story", "Be brief.", "a", "b", "cats")
        assert said.startswith("400")
        assert "the flow 'story' has prompts of its own, and reads no chat" in said
        assert "of the roles system, user, assistant, user" in said
        assert "reads no chat" in refusal(made, "flow:story", "b", "it is b", "and cats?")

        async def program(client: Any) -> Any:
            await client.responses.create(model="flow:story", input="cats", instructions="Rhyme.")

        with pytest.raises(openai.BadRequestError, match="reads no chat"):
            made.run(program)
        assert asked(made, "flow:story", "cats").message.content == "once upon"


@pytest.mark.parametrize("model", ["write", "flow:story"])
@pytest.mark.parametrize("name", ["Topic", "topik"])
def test_a_misspelt_input_is_not_shown_to_the_model_as_json(model: str, name: str) -> None:
    with served(Story(), engine()) as made:
        said = refusal(made, model, f'{{"{name}": "cats"}}')
        assert f"has no input '{name}'. Did you mean 'topic'?" in said
        # An object of other names may be the text.
        assert asked(made, model, '{"animal": "cats"}').message.content == "once upon"


def test_inputs_that_a_prompt_does_not_show_are_refused() -> None:
    with served(Story(), engine()) as made:
        said = refusal(made, "write", '{"topic": "cats", "temperature": 1, "tone": "sad"}')
        assert "node 'write' has no use for 'temperature', 'tone': its prompt shows topic" in said
        said = refusal(made, "title", '{"topic": "cats", "words": 3, "wrods": 4}')
        assert "has no use for 'wrods': its prompt shows topic, words" in said
        assert "no use for 'txt'" in refusal(made, "good", '{"text": "a", "txt": "b"}')
        assert asked(made, "title", '{"topic": "cats", "words": 3}').message.content


@pytest.mark.parametrize(
    ("made_of", "cut"),
    [
        (lambda text: text, True),
        (lambda text: {"story": [f"A story: {text} "]}, True),
        (lambda text: f"{text}. The end.", False),
        (lambda text: {"words": 3}, False),
    ],
)
def test_a_result_that_ends_at_a_limit_is_told_to_be_cut(made_of: Any, cut: bool) -> None:
    with served(story(made_of), engine("once upon a time")) as made:
        assert asked(made, "flow:story", "cats").finish_reason == ("length" if cut else "stop")
    with served(story(made_of), engine("once")) as made:
        assert asked(made, "flow:story", "cats").finish_reason == "stop"


def test_a_flow_that_samples_is_not_asked_for_a_temperature_of_0() -> None:
    with served(Story(), engine()) as made:
        said = refusal(made, "flow:story", "chat", temperature=0)
        assert said.startswith("400")
        assert "node 'talk' samples in the flow" in said
        assert asked(made, "flow:story", "chat").message.content == "once upon"
        assert asked(made, "flow:story", "cats", temperature=0).message.content == "once upon"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"a": {1}}, "set is not JSON serializable"),
        ({"a": float("nan")}, "not JSON compliant"),
    ],
)
def test_a_result_that_is_no_json_is_an_error_that_says_so(result: Any, said: str) -> None:
    with served(story(lambda text: result), engine()) as made:
        error = refusal(made, "flow:story", "cats")
    assert error.startswith("500")
    assert "the flow's result cannot be sent as text or JSON" in error
    assert said in error


def test_texts_of_another_model_are_not_read_by_the_base_models_tokenizer() -> None:
    class Elsewhere(Story):
        nodes: Any = (Generate(name="write", prompt=Template("About {topic}"), model="small"),)

    class Other:
        def decode(self, ids: Any) -> str:
            return "gibberish"

        whole_text = decode

    with served(Elsewhere(), engine(), tokens=Other()) as made:

        async def program(client: Any) -> str:
            messages = [{"role": "user", "content": "cats"}]
            chunks = await client.chat.completions.create(
                model="write", messages=messages, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in chunks])

        assert made.run(program) == "once upon"


def test_a_prompt_that_is_cut_is_told_in_the_log_once_of_each_node(caplog: Any) -> None:
    class Cutting(SteppingEngine):
        def _decode(self, request: Any) -> Any:
            return replace(super()._decode(request), dropped_tokens=7)

    with served(Story(), Cutting(lambda node, prompt, output: "once")) as made:
        for model in ("write", "write", "flow:story"):
            asked(made, model, "cats")
    told = [each.getMessage() for each in caplog.records if "was cut by 7 tokens" in each.message]
    assert len(told) == 2  # a model each: the node, and the flow
    assert all("a prompt of node 'write'" in each for each in told)


def test_inputs_that_no_example_had(caplog: Any) -> None:
    with served(Story(), engine(), known_inputs=dict.fromkeys(["topic", "mood"], TEXT)) as made:
        said = refusal(made, "flow:story", '{"topic": ["cats"]}')
        assert "the input 'topic' is a list, and in the run's examples it was a text" in said
        said = refusal(made, "flow:story", '{"topic": "cats", "moood": 1}')
        assert "there is no input 'moood'. Did you mean 'mood'?" in said
        for _ in range(2):
            assert asked(made, "flow:story", '{"topic": "cats", "length": 2}')
    told = [each.getMessage() for each in caplog.records if "is unknown" in each.message]
    assert len(told) == 1
    assert "the input 'length' is unknown, and maybe ignored" in told[0]
