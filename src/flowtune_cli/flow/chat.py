"""What a chat node answers: text and tool calls, as the chat completions of OpenAI's API have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that the model asks for.

    Args:
        id: by which the tool's result refers to it.
        arguments: JSON text, as the model wrote it.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatAnswer:
    """What a flow gets from a chat node.

    Args:
        text: without the tool calls.
        finish_reason: "stop", "length" (truncated) or "tool_calls".
        prompt_tokens, completion_tokens: their numbers.
        token_logprobs: each token of the completion with its log-probability in nats, where they
            were asked for.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_logprobs: tuple[tuple[str, float], ...] | None = None
