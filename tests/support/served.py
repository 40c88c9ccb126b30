"""A served flow in this process: the app, its engine's thread, and clients that reach it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from flowtune_cli.flow.known_inputs import Kinds, KnownInputs
from flowtune_cli.flow.task import Task
from flowtune_cli.gateway.served_models import ServedFlow, ServedNode
from flowtune_cli.gateway.serving import Serving
from flowtune_cli.runtime.called_flow import CalledFlow
from flowtune_cli.runtime.scheduler import Scheduler
from flowtune_cli.runtime.shared_engine import SharedEngine

BASE_URL = "http://localhost/v1"


@dataclass
class Served:
    app: Serving
    engine: SharedEngine

    def http(self, **more: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost", **more)

    def client(self, key: str = "none", retries: int = 0) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=BASE_URL, api_key=key, http_client=self.http(), max_retries=retries
        )

    def run(self, program: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """What a program returns that gets a client."""

        async def main() -> Any:
            async with self.client() as client:
                return await asyncio.wait_for(program(client), 60)

        return asyncio.run(main())

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.ask("GET", path, headers)

    def post(self, path: str, content: Any, **headers: str) -> httpx2.Response:
        return self.ask("POST", path, headers, content)

    def ask(
        self, method: str, path: str, headers: dict[str, str], content: Any = None
    ) -> httpx2.Response:
        async def main() -> httpx2.Response:
            async with self.http(headers=headers) as client:
                return await client.request(method, path, json=content)

        return asyncio.run(main())


@contextmanager
def served(
    task: Task,
    engine: Any,
    tokens: Any = None,
    between: Any = lambda: None,
    known_inputs: Kinds | None = None,
    **more: Any,
) -> Iterator[Served]:
    """A task whose requests an engine answers."""
    shared = SharedEngine(engine, between)
    flow = CalledFlow(task, lambda: Scheduler(shared))
    nodes: Sequence[Any] = [ServedNode(node, shared.add) for node in task.nodes]
    whole = ServedFlow(task, flow, KnownInputs(known_inputs, logging.getLogger("served").warning))
    app = Serving([*nodes, whole], shared, tokens or engine, **more)
    try:
        yield Served(app, shared)
    finally:
        flow.close()
        shared.close()
