"""Chat: a node that answers chats which the flow gives, as an OpenAI endpoint does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..flow.chat import ChatAnswer, FinishReason
from ..flow.errors import UsageError
from ..flow.messages import ChatError
from ..flow.node import Call, Datum, Node, Response, Serves, TextDatum
from ..flow.prompt import Message, ToolCall
from ..flow.request import (
    GREEDY,
    Constraint,
    Decoded,
    DecodeRequest,
    Decoding,
    Generation,
    Refusal,
)
from .chat_inputs import ChatInputs, parse_inputs
from .chat_target import check_possible, parse_answer
from .generated import constraint_of, prompt_of, response_of, target_text


@dataclass(kw_only=True)
class Chat(Node):
    """Answers chats, each of which a call gives as OpenAI's API has it.

    A call gives ``messages``, and maybe ``tools``, ``tool_choice``, ``constraint``, ``logprobs``,
    ``seed``, and what stands in for the node's settings: ``temperature``, ``top_p``,
    ``max_tokens`` and ``stop``. The flow gets a ``ChatAnswer``.

    At a temperature of 0 an answer is greedy, and alternatives come from the exploration strategy.
    Above, it is drawn from noise that the call's place in the flow determines, so that it replays
    and two equal calls differ; its alternatives are further samples at the same settings.

    Args:
        temperature: of calls that give none; 0 is greedy.
        top_p: of calls that give none: sample from the smallest set of tokens with this much
            probability.
        max_new_tokens: an answer is truncated at this many tokens.
        stop: an answer ends before the first of these strings, which may hold special tokens.
    """

    kind: ClassVar[str] = "chat"
    serves: ClassVar[Serves | None] = "chat"

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UsageError(f"node '{self.name}': temperature must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"node '{self.name}': top_p must be above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise UsageError(f"node '{self.name}': max_new_tokens must be 1 or more")

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        """The request as canonical JSON: all that its answer depends on."""
        return self._inputs(inputs).canonical

    def own_seed(self, inputs: Mapping[str, Any]) -> int | None:
        """The request's ``seed``; ``prompt_text`` has checked it."""
        seed: int | None = inputs.get("seed")
        return seed

    async def respond(self, call: Call) -> Response:
        asked = self._inputs(call.inputs)
        decoded = await call.ask(
            DecodeRequest(
                self.adapter_name,
                asked.prompt,
                asked.max_tokens,
                asked.stop,
                self._decoding(call, asked),
                call.seed if asked.seed is None else (*call.seed, asked.seed),
                logprobs=asked.logprobs,
                constraint=asked.constraint,
                refusable=True,
            )
        )
        if isinstance(decoded, Refusal):
            raise ChatError(f"node '{self.name}': {decoded.reason}")

        def read(generation: Generation) -> tuple[object, ChatAnswer, str]:
            answer = _answer(decoded, generation, call.seed)
            # As it is stored, and exported: what the model wrote.
            text = (generation.written or generation.text).strip()
            return _parsed(answer, asked.constraint), answer, text

        return response_of(decoded, asked.prompt, read, self.alternatives, asked.constraint)

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        """``gold`` is the right text, or an assistant's message, maybe with tool calls."""
        prompt = prompt_of(response)
        answer: str | Message
        if isinstance(gold, Mapping):
            answer = parse_answer(self.name, gold, prompt.tools)
        else:
            answer = target_text(self.name, gold, "texts or messages")
        check_possible(self.name, answer, constraint_of(response))
        return [TextDatum(self.name, prompt, answer, self.weight)]

    def _decoding(self, call: Call, asked: ChatInputs) -> Decoding:
        if asked.temperature > 0:
            samples = self.alternatives if call.wants_alternatives else 0
            return Decoding(
                samples=samples, temperature=asked.temperature, top_p=asked.top_p, greedy=False
            )
        return call.exploration.decoding(self.alternatives) if call.exploration else GREEDY

    def _inputs(self, inputs: Mapping[str, Any]) -> ChatInputs:
        return parse_inputs(
            inputs,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_new_tokens,
            stop=self.stop,
        )


def _answer(decoded: Decoded, generation: Generation, seed: tuple[int | str, ...]) -> ChatAnswer:
    calls = tuple(
        replace(call, id=_tool_call_id(seed, n)) for n, call in enumerate(generation.tool_calls)
    )
    reason: FinishReason = "tool_calls" if calls else "stop"
    return ChatAnswer(
        text=generation.text,
        tool_calls=calls,
        finish_reason="length" if generation.truncated else reason,
        prompt_tokens=decoded.prompt_tokens,
        completion_tokens=generation.length,
        token_logprobs=generation.token_logprobs,
    )


def _tool_call_id(seed: tuple[int | str, ...], number: int) -> str:
    """By the call's place in the flow: programs send ids back, and have to send the same again.

    Nine letters and digits, as Mistral's chat templates take no other.
    """
    return hashlib.sha256(repr((*seed, number)).encode()).hexdigest()[:9]


def _parsed(answer: ChatAnswer, constraint: Constraint | None) -> object:
    """Equal for answers that mean the same to a program."""
    text = answer.text.strip()
    if constraint is not None and constraint.is_json:
        text = _canonical(text)
    calls: list[ToolCall] = [
        replace(call, id="", arguments=_canonical(call.arguments)) for call in answer.tool_calls
    ]
    return text, tuple(calls)


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
