"""A flow whose nodes write a token each: diverse beam search then is the same everywhere."""

from __future__ import annotations

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from support.fake_engine import digest, writer


def nodes() -> list[Node]:
    """A token each: there, a group that departs ends, as in diverse beam search."""
    return [
        writer("draft", "draft", alternatives=2, max_new_tokens=1),
        writer("check", "check", max_new_tokens=1),
    ]


async def flow(episode: Episode, example: Example) -> str:
    draft = await episode.call("draft", x=example.question)
    episode.reward("draft", digest(draft) % 5 / 4)
    check = await episode.call("check", x=draft)
    episode.reward("check", digest(check) % 3)
    return str(check)
