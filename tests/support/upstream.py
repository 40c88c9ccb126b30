"""Another server on OpenAI's API, for tests: keeps what it is asked, and answers as told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flowtune_cli.gateway.server import Server

CHOICE = {
    "index": 0,
    "message": {"role": "assistant", "content": "from afar", "refusal": None},
    "finish_reason": "stop",
    "logprobs": None,
}
USED = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COMPLETION = {
    "id": "up-1",
    "object": "chat.completion",
    "created": 1,
    "model": "big",
    "choices": [CHOICE],
    "usage": USED,
}
EMBEDDED = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
    "model": "big",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}


class Upstream:
    """Another server: keeps what it is asked, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.answers: Callable[[str], tuple[int, Any]] = lambda path: (
            200,
            EMBEDDED if path == "/v1/embeddings" else COMPLETION,
        )
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        sent = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["path"], sent, json.loads(body)))
        status, answer = self.answers(scope["path"])
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        start = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": content})


@contextmanager
def serving() -> Iterator[Upstream]:
    """A server that listens on a port of its own."""
    made = Upstream()
    with Server(made) as server:  # type: ignore[arg-type]
        made.url = f"http://127.0.0.1:{server.port}/v1"
        yield made
