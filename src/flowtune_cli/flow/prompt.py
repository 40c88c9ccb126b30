"""Prompt templates, and the prompts they render: messages with parts that may be truncated."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from .errors import UsageError
from .flow_call import FlowCall


@dataclass(frozen=True)
class Segment:
    """A part of a prompt's text.

    Args:
        truncatable: it may be shortened to fit the context window.
        authored: its author knows the model: special tokens in it, such as ``</think>``, are meant.
            In other parts, which come from data, they are plain text.
    """

    text: str
    truncatable: bool = False
    authored: bool = False


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that a model has written.

    Args:
        id: by which the tool's answer names the call.
        name: of the tool.
        arguments: a JSON object, as text.
    """

    id: str
    name: str
    arguments: str

    @property
    def text(self) -> str:
        """The call as a person reads it."""
        return f"{self.name}({self.arguments})"


@dataclass(frozen=True)
class Message:
    """One chat message. A plain prompt (``chat=False``) has the roles ``prefix`` and ``text``.

    Args:
        tool_calls: what an assistant has called beside its text.
        tool_call_id: of the call that a tool's message answers.
        name: of the tool, or of whoever speaks.
    """

    role: str
    segments: tuple[Segment, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """Its segments, joined, and its tool calls, one a line."""
        text = "".join(segment.text for segment in self.segments)
        calls = [call.text for call in self.tool_calls]
        return "\n".join([text, *calls] if text else calls)


@dataclass(frozen=True)
class Prompt:
    """What a node shows the model, before the model's own chat template is applied.

    Args:
        messages: the chat so far; for ``chat=False`` a plain text after its frozen prefix, if any.
        prefill: the beginning of the model's answer, which the model continues.
        chat: apply the model's chat template.
        reserve: tokens of the context window that are reserved for the completion.
        authored_prefill: its special tokens are meant, see ``Segment``.
        tools: what the model may call, as the JSON text of a list that the model's chat template
            gets as ``tools``; empty if nothing. Calls are then looked for in its answers.
    """

    messages: tuple[Message, ...]
    prefill: str = ""
    chat: bool = True
    reserve: int = 128
    authored_prefill: bool = False
    tools: str = ""

    @property
    def text(self) -> str:
        """The prompt as a person reads it, without the model's template."""
        if not self.chat:
            return "".join(m.text for m in self.messages) + self.prefill
        parts = [f"[tools]\n{self.tools}"] if self.tools else []
        parts += [f"[{m.role}]\n{m.text}" for m in self.messages]
        if self.prefill:
            parts.append(f"[assistant]\n{self.prefill}")
        return "\n".join(parts)

    @property
    def frozen_prefix(self) -> str:
        """The beginning, which the base model encodes without the node's adapter."""
        return "".join(m.text for m in self.messages if m.role == "prefix")


class NotAText(TypeError):
    """An input that looks like nothing a model should read: a coroutine, chat messages."""

    def add_place(self, place: str) -> None:
        """Say which line of the flow made the call."""
        self.args = (f"{self} ({place})",)


def as_texts(value: Any) -> list[str]:
    """How an input looks in a prompt: a list is one text an item, anything else is one text.

    Raises:
        NotAText: it, or an item, is to be awaited, or is a chat message.
    """
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return [_as_text(value)]


def _as_text(value: Any) -> str:
    if isinstance(value, Awaitable):
        name = getattr(value, "__qualname__", type(value).__name__)
        if isinstance(value, FlowCall):
            name = f"{value.what} ({value.place})"
        if isinstance(value, Coroutine):
            value.close()  # else Python warns of it, too, somewhere else
        raise NotAText(f"what was not awaited: {name}. Write 'await' before it")
    if isinstance(value, Mapping) and isinstance(value.get("role"), str) and "content" in value:
        raise NotAText(
            "a chat message, which would look like Python code: write its text, such as"
            " f\"{message['role']}: {message['content']}\""
        )
    return str(value)


@dataclass(frozen=True)
class Template:
    """Instructions with ``{fields}`` that a call's inputs fill in, or parts: ``{document.title}``.

    Special tokens of the model that are written here, such as ``</think>``, are special; in what
    fields show they are plain text.

    Args:
        user: the user message, or the whole text when ``chat`` is false.
        system: the system message; models whose template has none get it before the user message.
        prefill: the beginning of the model's answer, which the model continues.
        chat: apply the model's chat template.
        truncate: the fields that may be truncated when the prompt exceeds the context window.
        separator: joins the items of a list.
        frozen_prefix: the beginning of a plain text, encoded by the base model alone; the adapter
            is active only after it (an activated LoRA, Greenewald et al. 2025). Its keys and values
            are computed once for all nodes, references and updates that share it.
    """

    user: str = ""
    system: str = ""
    prefill: str = ""
    chat: bool = True
    truncate: tuple[str, ...] = ()
    separator: str = "\n"
    frozen_prefix: str = ""

    def __post_init__(self) -> None:
        if self.frozen_prefix and self.chat:
            raise UsageError(
                "a template has a frozen prefix, which no chat template can precede: write"
                " Template(..., chat=False), or move the prefix into user"
            )

    @property
    def fields(self) -> frozenset[str]:
        """The names of the inputs that this template shows."""
        return frozenset(
            _input(name)
            for text in (self.frozen_prefix, self.user, self.system, self.prefill)
            for _, name, _, _ in Formatter().parse(text)
            if name is not None
        )

    def render(self, inputs: Mapping[str, Any], *, node: str, reserve: int = 128) -> Prompt:
        """Fill the fields in; ``reserve`` tokens of the context window stay free for a completion.

        Raises:
            UsageError: a field that the call has no input for, or that has a format
                specification; names the node and the field.
        """
        messages = []
        if self.frozen_prefix:
            messages.append(Message("prefix", self._segments(self.frozen_prefix, inputs, node)))
        if self.system and self.chat:
            messages.append(Message("system", self._segments(self.system, inputs, node)))
        user = self._segments(self.user, inputs, node)
        messages.append(Message("user" if self.chat else "text", user))
        answer = self._segments(self.prefill, inputs, node)
        prefill = "".join(segment.text for segment in answer)
        authored = bool(answer) and all(segment.authored for segment in answer)
        return Prompt(tuple(messages), prefill, self.chat, reserve, authored)

    def _segments(self, text: str, inputs: Mapping[str, Any], node: str) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise UsageError(f"the prompt of node '{node}' is not a template: {error}") from None
        for literal, name, specification, conversion in parsed:
            if literal:
                segments.append(Segment(literal, authored=True))
            if name is None:
                continue
            if _input(name) not in inputs:
                raise UsageError(
                    f"the prompt of node '{node}' asks for the field '{{{name}}}', which its call"
                    f" does not give; it gives: {', '.join(sorted(inputs)) or 'nothing'}."
                    " Write {{ and }} for literal braces."
                )
            if specification or conversion:
                raise UsageError(
                    f"the prompt of node '{node}' formats its field '{{{name}}}'; a field is shown"
                    f" as it is: write {{{name}}} alone, and format what the call gives."
                )
            try:
                value, _ = Formatter().get_field(name, (), inputs)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise UsageError(
                    f"the prompt of node '{node}' asks for '{{{name}}}', which its call does not"
                    f" give: {error}"
                ) from None
            try:
                texts = as_texts(value)
            except NotAText as error:
                raise NotAText(
                    f"the prompt of node '{node}' shows in its field '{{{name}}}' {error}"
                ) from None
            for position, item in enumerate(texts):
                if position:
                    segments.append(Segment(self.separator, authored=True))
                segments.append(Segment(item, truncatable=name in self.truncate))
        return tuple(segments)


def _input(field: str) -> str:
    """The name of the input that a field shows, or shows a part of."""
    return field.replace("[", ".").partition(".")[0]
