"""What is served under a model's name: a node of a flow, or the flow as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..flow.chat import ChatAnswer
from ..flow.episode import Episode
from ..flow.errors import UsageError
from ..flow.known_inputs import KnownInputs
from ..flow.messages import ChatError
from ..flow.node import Call, Node, NodeOutput, Response, SelfLearning
from ..flow.prompt import NotAText
from ..flow.request import Answer, OnTokens, Request
from ..flow.served_inputs import inputs_of_text, only_user_text
from ..flow.task import Task
from ..runtime.called_flow import CalledFlow
from .errors import WireError, invalid, unsupported
from .read_inputs import ReadInputs
from .requests import Asked
from .shortened import CutPrompts, is_cut_off

Add = Callable[[Request, OnTokens | None], "Future[Answer]"]
"""Has an engine answer a request, see ``EngineSession.add``."""

_ASKED_BY = {
    "constraint": "response_format",
    "logprobs": "logprobs",
    "max_tokens": "max_tokens",
    "stop": "stop",
    "temperature": "temperature",
    "tool_choice": "tool_choice",
    "tools": "tools",
    "top_p": "top_p",
}
"""The inputs of a chat that others have no use for, and the fields that give them."""


class Streaming(NamedTuple):
    """How the tokens of an answer make up its text; see ``PartialText``."""

    stops: tuple[str, ...] = ()
    stripped: bool = False


class ServedModel(Protocol):
    """What is asked by one name.

    Attributes:
        name: the name.
    """

    name: str

    def streaming(self, asked: Asked) -> Streaming | None:
        """How its text may be sent while it is written; None if it has to be there first."""

    async def answer(
        self, asked: Asked, token: str, on_tokens: OnTokens | None = None
    ) -> ChatAnswer:
        """Answer a request.

        Args:
            token: of this request alone: the noise of one without a seed.
            on_tokens: called with an answer's tokens, in another thread.

        Raises:
            WireError: it is no request that this can answer.
            UsageError: nor is it for the model.
        """


class ServedNode:
    """A node, whose answers belong to no episode.

    Attributes:
        refusal: why it cannot answer, if it cannot.
    """

    def __init__(self, node: Node, add: Add) -> None:
        self.name = node.name
        self.refusal = _refusal(node)
        self._node = node
        self._add = add
        self._cut_prompts = CutPrompts()

    def streaming(self, asked: Asked) -> Streaming | None:
        """See ``ServedModel``. A call of a tool, and tokens with figures, are told as a whole.

        So is what another model writes, whose tokens are not those of the base model.
        """
        node = self._node
        if node.other_model is not None:
            return None
        if node.serves == "written":
            return Streaming(tuple(getattr(node, "stop", ())), stripped=True)
        inputs = asked.inputs
        if node.serves != "chat" or inputs.get("logprobs") or inputs.get("tools"):
            return None
        return Streaming(tuple(inputs.get("stop", getattr(node, "stop", ()))))

    async def answer(
        self, asked: Asked, token: str, on_tokens: OnTokens | None = None
    ) -> ChatAnswer:
        """See ``ServedModel``."""
        inputs = self._inputs(asked)
        read = ReadInputs(inputs)
        try:
            self._node.prompt_text(read)
        except (ValueError, NotAText, UsageError) as error:
            raise WireError(str(error), code="invalid_value") from None
        if read.unread and self._node.serves != "chat":
            named = ", ".join(f"'{name}'" for name in read.unread)
            shown = ", ".join(sorted(read.read)) or "nothing"
            raise invalid(
                "messages[0].content",
                f"node '{self.name}' has no use for {named}: its prompt shows {shown}",
            )

        async def ask(request: Request) -> Any:
            model = self._node.other_model
            asked_of = request if model is None else replace(request, model=model)
            return await asyncio.wrap_future(self._add(asked_of, on_tokens))

        noise = _noise(asked, self.name, token)
        try:
            response = await self._node.respond(Call(inputs, ask, None, noise))
        except ChatError as error:  # what only the model finds impossible
            raise WireError(str(error), code="invalid_value") from None
        self._cut_prompts.note(self.name, response.dropped_tokens)
        return _chat_answer(self._node, response)

    def _inputs(self, asked: Asked) -> Mapping[str, Any]:
        if self.refusal is not None:
            raise WireError(self.refusal, param="model", code="model_not_supported")
        if self._node.serves == "chat":
            return asked.inputs
        _refuse_choices(asked, f"node '{self.name}' has settings of its own for that")
        whose = f"node '{self.name}'"
        try:
            text = only_user_text(asked.inputs["messages"], whose)
        except UsageError as error:
            raise invalid("messages", str(error)) from None
        try:
            return inputs_of_text(text, self._node.input_names, whose)
        except UsageError as error:
            raise invalid("messages[0].content", str(error)) from None


class ServedFlow:
    """A task's flow: an episode a request.

    Args:
        known: checks the inputs of a request.
    """

    def __init__(self, task: Task, flow: CalledFlow, known: KnownInputs) -> None:
        self.name = f"flow:{task.name}"
        self._task = task
        self._flow = flow
        self._known = known
        self._cut_prompts = CutPrompts()

    def streaming(self, asked: Asked) -> Streaming | None:
        """See ``ServedModel``: what the flow returns is not written by any one node."""
        return None

    async def answer(
        self, asked: Asked, token: str, on_tokens: OnTokens | None = None
    ) -> ChatAnswer:
        """See ``ServedModel``."""
        _refuse_choices(asked, "a flow's nodes have settings of their own for that")
        try:
            example = self._task.example_from_messages(asked.inputs["messages"])
            self._known.check(example)
        except UsageError as error:
            raise invalid("messages", str(error)) from None
        seed = "/".join(map(str, _noise(asked, self.name, token)))
        answer: ChatAnswer = await asyncio.wrap_future(
            self._flow.submit(example, seed, partial(self._answer, asked))
        )
        return answer

    def _answer(self, asked: Asked, episode: Episode) -> ChatAnswer:
        for step in episode.steps:
            self._cut_prompts.note(step.node, step.response.dropped_tokens)
        sampled = [step.node for step in episode.steps if step.sampled]
        if sampled and asked.inputs.get("temperature") == 0:
            raise unsupported(
                "temperature",
                f"node '{sampled[0]}' samples in the flow, and another run of it"
                " could answer otherwise: leave the temperature out",
            )
        try:
            text = self._task.text_of(episode.result)
            if not isinstance(text, str):
                raise TypeError(f"it is a {type(text).__qualname__}")
        except (TypeError, ValueError) as error:
            raise WireError(
                f"the flow's result cannot be sent as text or JSON: {error}",
                code="flow_failed",
                status=500,
            ) from error
        return ChatAnswer(
            text,
            finish_reason="length" if is_cut_off(episode) else "stop",
            prompt_tokens=sum(step.response.prompt_tokens for step in episode.steps),
            completion_tokens=sum(step.output.tokens for step in episode.steps),
        )


def _refusal(node: Node) -> str | None:
    if isinstance(node, SelfLearning):
        return f"node '{node.name}' has a model of its own, which answers within a flow alone"
    if node.elsewhere is not None:
        return (
            f"node '{node.name}' is played by {node.elsewhere.name}, of another server: ask that"
            " one, or the whole flow"
        )
    if node.serves is None:
        return f"node '{node.name}' is a {node.kind}, which answers no text: ask it within its flow"
    return None


def _refuse_choices(asked: Asked, why: str) -> None:
    """Refuse what asks for another answer than the one there is."""
    for name, field in _ASKED_BY.items():
        harmless = {"temperature": 0, "top_p": 1}.get(name)
        if name in asked.inputs and asked.inputs[name] != harmless:
            raise unsupported(field, why)


def _noise(asked: Asked, name: str, token: str) -> tuple[int | str, ...]:
    """What samples are drawn by: a seed of the request, or else what no other request has."""
    chosen = asked.inputs.get("seed")
    return ("served", name, token if chosen is None else chosen)


def _chat_answer(node: Node, response: Response) -> ChatAnswer:
    output: NodeOutput = response.outputs[0]
    if isinstance(output.value, ChatAnswer):
        return output.value
    if not isinstance(output.value, str):
        raise TypeError(f"node '{node.name}' answered with {output.value!r} in place of a text")
    return ChatAnswer(
        output.value,
        finish_reason="length" if output.truncated else "stop",
        prompt_tokens=response.prompt_tokens,
        completion_tokens=output.tokens,
    )
