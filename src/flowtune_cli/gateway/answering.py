"""Answers a request of a served model: as a whole, or in pieces while it is written."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from starlette.types import Scope

from ..flow.chat import ChatAnswer
from .connections import Sender
from .door import Answered
from .endpoints import EVENT_STREAM, STREAM_HEADERS, Endpoint, event_stream, json_response
from .errors import WireError, wire_error
from .partial_text import PartialText, TextOfTokens
from .requests import Asked
from .served_models import ServedModel, Streaming
from .server_metrics import ServerMetrics
from .streams import Stream


class Answering:
    """Sends answers.

    Args:
        tokens: the tokenizer's.
        metrics: count the answers' tokens.
    """

    def __init__(self, tokens: TextOfTokens, metrics: ServerMetrics) -> None:
        self._tokens = tokens
        self._metrics = metrics

    async def send(
        self, endpoint: Endpoint, model: ServedModel, asked: Asked, scope: Scope, sender: Sender
    ) -> None:
        """Answer a request.

        Raises:
            Exception: there is no answer; where a part of it was sent, the client is told, too.
        """
        # Ids are made from it, and so is the noise of a request without a seed.
        token = secrets.token_hex(16)
        made = _Made(endpoint, model, asked, token)
        streaming = model.streaming(asked) if asked.stream else None
        if streaming is not None:
            await self._send_pieces(made, streaming, sender)
            return
        answer = await model.answer(asked, token)
        self._metrics.answered(model.name, answer)
        whole = made.of(answer)
        response = (
            event_stream(endpoint.stream(asked, whole)) if asked.stream else json_response(whole)
        )
        await response(scope, _nothing_more, sender)

    async def _send_pieces(self, made: _Made, streaming: Streaming, sender: Sender) -> None:
        text = PartialText(self._tokens, *streaming)
        stream: Stream | None = None
        writing = _Writing(made)
        try:
            async for ids in writing.tokens():
                piece = text.add(ids)
                if piece:
                    begun = "" if stream else await made.begin(sender)
                    stream = stream or made.stream
                    await _send(sender, begun + stream.text(piece))
            answer = writing.answer
            self._metrics.answered(made.model.name, answer)
            rest = text.rest(answer.text)
            if rest is None:
                raise WireError("the answer is another than was sent of it", status=500)
            begun = "" if stream else await made.begin(sender)
            stream = stream or made.stream
            last = stream.text(rest) if rest else ""
            await _send(sender, begun + last + stream.end(made.of(answer)), more=False)
        except Exception as error:
            if stream is not None:
                await _send(sender, stream.error(wire_error(error)), more=False)
            raise
        finally:
            await writing.close()


class _Made:
    """What a request is answered with."""

    def __init__(self, endpoint: Endpoint, model: ServedModel, asked: Asked, token: str) -> None:
        self.endpoint = endpoint
        self.model = model
        self.asked = asked
        self.token = token
        self._created = int(time.time())
        self._stream: Stream | None = None

    def of(self, answer: ChatAnswer) -> dict[str, object]:
        """The body of the answer."""
        key = ("served", self.model.name, self.token)
        return self.endpoint.build(self.asked, Answered(key, answer, self._created))

    @property
    def stream(self) -> Stream:
        """The events of the answer."""
        if self._stream is None:
            self._stream = self.endpoint.begin(self.of(ChatAnswer("")), self.asked.include_usage)
        return self._stream

    async def begin(self, sender: Sender) -> str:
        """Begin the response; returns the first events."""
        headers = {**STREAM_HEADERS, "content-type": f"{EVENT_STREAM}; charset=utf-8"}
        await sender(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            }
        )
        return self.stream.begin()


class _Writing:
    """An answer that is being written, in a task of its own."""

    def __init__(self, made: _Made) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Sequence[int] | None] = asyncio.Queue()
        asked = made.model.answer(made.asked, made.token, self._on_tokens)
        self._task = asyncio.ensure_future(asked)
        self._task.add_done_callback(lambda _: self._queue.put_nowait(None))

    async def tokens(self) -> AsyncIterator[list[int]]:
        """Its tokens as they come; those that are there are taken together."""
        ended = False
        while not ended:
            found = [await self._queue.get()]
            while not self._queue.empty():
                found.append(self._queue.get_nowait())
            ended = found[-1] is None
            yield [token for ids in found if ids is not None for token in ids]

    @property
    def answer(self) -> ChatAnswer:
        """The whole answer, when there are no more tokens.

        Raises:
            Exception: why there is none.
        """
        return self._task.result()

    async def close(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _on_tokens(self, number: int, ids: tuple[int, ...]) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, ids)


async def _send(sender: Sender, text: str, *, more: bool = True) -> None:
    body = text.encode("utf-8", "surrogatepass")
    await sender({"type": "http.response.body", "body": body, "more_body": more})


async def _nothing_more() -> dict[str, str]:
    raise RuntimeError("the request was read already")
