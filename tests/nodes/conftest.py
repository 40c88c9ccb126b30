"""Call a node alone, outside any flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.flow.node import Call, Exploration, Node, Response
from flowtune_cli.runtime.scheduler import ask
from support.fake_engine import FakeEngine, run

Respond = Callable[..., Response]


@pytest.fixture
def respond() -> Respond:
    """``respond(engine, node, exploration=None, **inputs)`` gives the node's response."""

    def respond(
        engine: FakeEngine, node: Node, exploration: Exploration | None = None, **inputs: Any
    ) -> Response:
        call = Call(inputs, ask, exploration, seed=(1, "id", 2))
        return run(engine, node.respond(call))[0]  # type: ignore[arg-type]

    return respond
