"""What a flow gets from a node that answers chats: a text, tool calls, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .prompt import ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]
"""Why an answer ended: by itself or a stop string, by the token limit, or to have tools called."""


@dataclass(frozen=True)
class ChatAnswer:
    """An assistant's message.

    Args:
        text: without tool calls and special tokens.
        tool_calls: those that the model wrote.
        prompt_tokens, completion_tokens: their numbers; the end of the answer counts.
        token_logprobs: each token's text and log-probability in nats; None unless asked for.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_logprobs: tuple[tuple[str, float], ...] | None = None
