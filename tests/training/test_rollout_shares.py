"""What examples and rollouts take."""

from __future__ import annotations

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.training.rollout_shares import expected_cost, owners
from support.fake_engine import FakeEngine, FlowTask, explored, run_play, write_letters, writer


def test_examples_are_shared_out_by_the_length_of_their_texts() -> None:
    inputs = [{"x": "a" * length, "n": 3} for length in (10, 10, 40, 10, 10)]
    assert owners(inputs, 2) == [1, 1, 0, 1, 1]
    assert owners([{"x": ["a", {"b": "c"}]}] * 5, 3) == [0, 1, 2, 0, 1]
    assert owners([], 2) == []


@pytest.mark.parametrize("reports", [1, 4])
def test_rollouts_take_what_followed_up_to_the_reward(reports: int) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        for number in range(1, 5):
            await episode.call("a", x="x" * number)
            if number == reports:
                episode.reward("reward", 1.0)

    task = FlowTask([writer("a", alternatives=3)], flow)
    episode = run_play(FakeEngine(write_letters), task, Plan(explorations=explored(task)))
    found = [expected_cost(task, episode, step) for step in episode.steps]
    alternatives = len(episode.steps[0].response.outputs) - 1
    assert found[0] == pytest.approx(alternatives) if reports == 1 else found[0] > 50
    assert found == sorted(found, reverse=True) or reports == 1
