"""Numbers in a node's response: of Python's types, and finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import NodeOutput, Response, Score
from flowtune_cli.runtime.responses import checked
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.tiny_training import Urn


def response(**more: Any) -> Response:
    good = NodeOutput("x", "x", Score(features={"short": 0.5}), -1.0, 2)
    return Response("p", (good,), (good, NodeOutput("y", "y", **more)))


def test_a_response_of_plain_numbers_is_passed_on() -> None:
    given = response(logprob=-2.0)
    assert checked("a", given) is given


def test_numbers_of_numpy_become_plain() -> None:
    found = checked("a", response(logprob=np.float32(-0.5), tokens=np.int64(3))).options[1]
    assert (type(found.logprob), type(found.tokens)) == (float, int)
    assert (found.logprob, found.tokens) == (-0.5, 3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"logprob": float("nan")}, "the logprob of its output 'y' is nan; it must be finite"),
        ({"logprob": "-1"}, "the logprob of its output 'y' is '-1'; it must be a number"),
        (
            {"score": Score(features={"short": float("inf")})},
            "the feature 'short' of its output 'y' is inf; it must be finite",
        ),
    ],
)
def test_others_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="node 'a'") as refused:
        checked("a", response(**more))
    assert str(refused.value) == f"node 'a': {said}"


def test_the_episode_fails_with_the_name_of_the_node() -> None:
    class Lost(Urn):
        async def respond(self, call: Any) -> Response:
            return Response("p", (NodeOutput("red", "red", logprob=float("nan")),))

    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("urn", x=1)

    episode = run_play(FakeEngine(), FlowTask([Lost()], flow))
    assert episode.failure is not None
    assert episode.failure.error == (
        "ValueError: node 'urn': the logprob of its output 'red' is nan; it must be finite"
    )
