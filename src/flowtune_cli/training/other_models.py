"""Nodes that other models play: an endpoint of another server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..flow.endpoint import Endpoint
from ..flow.errors import UsageError
from ..flow.node import Node


def play_elsewhere(nodes: Iterable[Node]) -> None:
    """Let the endpoints that nodes declare answer their requests.

    Raises:
        UsageError: a key is not in the environment, or a package is missing.
    """
    for node in nodes:
        if node.model is None:
            continue
        from ..gateway.endpoint import EndpointModel

        endpoint = Endpoint.of(node.model)
        try:
            endpoint.secret()
        except UsageError as error:
            raise UsageError(f"node '{node.name}': {error}") from None
        node.elsewhere = EndpointModel(endpoint)


def spent_elsewhere(nodes: Iterable[Node]) -> Iterator[str]:
    """What this process has asked of endpoints, a line for each node that one plays."""
    for node in nodes:
        if node.elsewhere is not None and node.elsewhere.spent.requests:
            yield f"node '{node.name}' asked {node.elsewhere.name}: {node.elsewhere.spent}"
