"""A chat node and a door to it, as little of each as programs need to be tested with.

A plugin's module: whoever loads it has the node type "chat", and programs get the door below.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.node import (
    Call,
    Datum,
    Node,
    NodeOutput,
    Response,
    Score,
    Term,
    TextDatum,
)
from flowtune_cli.flow.prompt import Message, Prompt, Segment
from flowtune_cli.flow.request import GREEDY, DecodeRequest
from flowtune_cli.programs import connection
from flowtune_cli.registry import hookimpl
from flowtune_cli.runtime.event_loop import FlowLoop, running_loop


@dataclass(kw_only=True)
class Chat(Node):
    """Answers messages.

    Args:
        max_new_tokens: an output is truncated at this many tokens.
    """

    kind: ClassVar[str] = "chat"

    max_new_tokens: int = 6

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return json.dumps(inputs, sort_keys=True)

    async def respond(self, call: Call) -> Response:
        prompt = _prompt(call.inputs["messages"])
        decoding = call.exploration.decoding(self.alternatives) if call.exploration else GREEDY
        decoded = await call.ask(
            DecodeRequest(self.adapter, prompt, self.max_new_tokens, (), decoding, call.seed)
        )
        outputs: dict[str, NodeOutput] = {}
        for made in decoded.generations:
            if len(outputs) <= self.alternatives:
                score = Score((Term(prompt, made.tokens),))
                outputs.setdefault(made.text, NodeOutput(made.text, made.text, score, made.logprob))
        return Response(
            decoded.prompt, tuple(outputs.values()), adapter_version=decoded.adapter_version
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        score = response.outputs[0].score
        assert score is not None
        return [TextDatum(self.name, score.terms[0].prompt, gold, self.weight)]


def _prompt(messages: Sequence[Mapping[str, str]]) -> Prompt:
    return Prompt(tuple(Message(m["role"], (Segment(m["content"]),)) for m in messages), reserve=16)


class Door:
    """Calls nodes in process, and serves addresses on the loopback."""

    def __init__(self, loop: FlowLoop) -> None:
        self.loop = loop
        self.addresses: dict[str, Address] = {}
        self._server: ThreadingHTTPServer | None = None

    def async_client(self, episode: Episode) -> Any:
        async def create(*, model: str, **inputs: Any) -> Any:
            return _completion(await episode.call(model, **inputs))

        return _client(create)

    def client(self, episode: Episode) -> Any:
        def create(*, model: str, **inputs: Any) -> Any:
            called = _called(episode, model, inputs)
            return _completion(asyncio.run_coroutine_threadsafe(called, self.loop).result())

        return _client(create)

    def address(self) -> Address:
        if self._server is None:
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            self._server.daemon_threads = True
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        address = Address(self, f"http://127.0.0.1:{self._server.server_address[1]}/v1")
        self.addresses[address.api_key] = address
        return address


class Address:
    def __init__(self, door: Door, base_url: str) -> None:
        self.base_url = base_url
        self.api_key = secrets.token_hex(8)
        self.door = door
        self.episode: Episode | None = None

    def serve(self, episode: Episode | None) -> None:
        self.episode = episode
        self.context = contextvars.copy_context()

    def close(self) -> None:
        self.serve(None)
        self.door.addresses.pop(self.api_key, None)

    def answer(self, model: str, inputs: Mapping[str, Any]) -> Any:
        assert self.episode is not None
        called = _called(self.episode, model, inputs)
        return (
            self.context.copy()
            .run(lambda: asyncio.run_coroutine_threadsafe(called, self.door.loop))
            .result()
        )


async def _called(episode: Episode, model: str, inputs: Mapping[str, Any]) -> Any:
    return await episode.call(model, **inputs)


def _client(create: Any) -> Any:
    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def _completion(text: str) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])


def _handler(door: Door) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            address = door.addresses.get(self.headers["authorization"].removeprefix("Bearer "))
            if address is None or address.episode is None:
                self.send_error(401)
                return
            try:
                text = address.answer(body.pop("model"), body)
            except BaseException as error:
                self._send(500, {"error": {"message": str(error)}})
                return
            message = {"role": "assistant", "content": text}
            self._send(200, {"choices": [{"index": 0, "message": message}]})

        def _send(self, code: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *parts: Any) -> None:
            pass

    return Handler


def open_door(loop: FlowLoop) -> Door:
    assert loop is running_loop()
    return Door(loop)


REAL_OPEN_DOOR = connection.open_door
connection.open_door = open_door

SOURCE = """
from support import chat_double
from support.chat_double import register_node_types
"""
"""A plugin that brings these."""


@hookimpl
def register_node_types(register: Any) -> None:
    register(Chat)
