"""A chat node whose texts an engine's script writes, and flows that call it as programs do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flowtune_cli.flow.chat import ChatAnswer, ToolCall
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.node import Call, Datum, Node, NodeOutput, Response, Score, Serves, Term
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import GREEDY, DecodeRequest, Generation
from support.fake_engine import digest


@dataclass(kw_only=True)
class ScriptedChat(Node):
    """Answers with the script's text; ``CALL name {...}`` in it is a tool call.

    A sampled answer ends with a number that is its noise.
    """

    kind: ClassVar[str] = "chat"
    serves: ClassVar[Serves | None] = "chat"

    max_new_tokens: int = 50

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        shown = {key: value for key, value in inputs.items() if key != "logprobs"}
        if any("REFUSE" in str(message.get("content")) for message in inputs["messages"]):
            raise UsageError("this node refuses")
        if any("NO REQUEST" in str(message.get("content")) for message in inputs["messages"]):
            raise ValueError("this is no request")
        return json.dumps(shown, sort_keys=True)

    async def respond(self, call: Call) -> Response:
        text = self.prompt_text(call.inputs)
        prompt = Prompt((Message("user", (Segment(text),)),), chat=False)
        decoding = call.exploration.decoding(self.alternatives) if call.exploration else GREEDY
        most = call.inputs.get("max_tokens", self.max_new_tokens)
        decoded = await call.ask(
            DecodeRequest(self.adapter_name, prompt, most, (), decoding, call.seed)
        )
        noise = f"~{digest(*call.seed) % 1000}" if call.inputs.get("temperature") else ""
        outputs: dict[str, NodeOutput] = {}
        for generation in decoded.generations:
            answer = _answer(call.inputs, generation, decoded.prompt_tokens, noise)
            outputs.setdefault(
                repr(answer),
                NodeOutput(
                    answer,
                    generation.text,
                    Score((Term(prompt, generation.tokens),)),
                    generation.logprob,
                    len(generation.tokens),
                    generation.truncated,
                ),
            )
        return Response(decoded.prompt, tuple(outputs.values())[: 1 + self.alternatives])

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        raise NotImplementedError


def _answer(
    inputs: Mapping[str, Any], generation: Generation, prompt_tokens: int, noise: str
) -> ChatAnswer:
    text, *calls = (generation.text + noise).split("CALL ")
    made = []
    for call in calls:
        name, _, arguments = call.strip().partition(" ")
        made.append(ToolCall("", name, arguments))
    words = generation.text.split(" ")
    logprobs = tuple((f"{word} ", -0.5) for word in words) if inputs.get("logprobs") else None
    finish = "length" if generation.truncated else "tool_calls" if made else "stop"
    return ChatAnswer(text, tuple(made), finish, prompt_tokens, len(words), logprobs)


def chat(name: str, **more: Any) -> ScriptedChat:
    """A chat node that is judged by ``reward``."""
    return ScriptedChat(name=name, reward=more.pop("reward", "reward"), **more)


def last_user_text(prompt: str) -> str:
    """The latest text that a chat node was shown, for scripts."""
    content = json.loads(prompt)["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def saying(write: Callable[[str, int], str]) -> Callable[[str, int], str]:
    """A script that looks at the latest message alone: ``write(text, output)``."""
    return lambda prompt, output: write(last_user_text(prompt), output)
