"""``play`` shows the requests that a program was refused, whether it caught the errors or not."""

from __future__ import annotations

from flowtune_cli.cli.episode_view import view
from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode, RequestError
from flowtune_cli.flow.example import Example
from support.fake_engine import EXAMPLE, FlowTask


async def unplayed(episode: Episode, example: Example) -> None: ...


def test_requests_that_failed() -> None:
    episode = Episode(EXAMPLE, {})
    episode.request_errors = [
        RequestError("the model 'x' does not exist", "model_not_found", "flow.py, line 3"),
        RequestError("'n': one answer a call"),
    ]
    task = FlowTask([], unplayed)
    lines = [line for line, _ in view(task, Trace(EXAMPLE, episode), full=True)]
    assert "a request FAILED: the model 'x' does not exist (flow.py, line 3)" in lines
    assert "a request FAILED: 'n': one answer a call" in lines
