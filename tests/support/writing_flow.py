"""A flow of two nodes that write, and learn from rewards that depend on each letter."""

from __future__ import annotations

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from support.fake_engine import digest, writer


def nodes() -> list[Node]:
    """Both explore by diverse beam search."""
    return [
        writer("draft", "draft", alternatives=2, max_new_tokens=4),
        writer("check", "check", max_new_tokens=4),
    ]


async def flow(episode: Episode, example: Example) -> str:
    draft = await episode.call("draft", x=example.question)
    episode.reward("draft", digest(draft) % 5 / 4)
    check = await episode.call("check", x=draft)
    episode.reward("check", digest(check) % 3)
    return str(check)
