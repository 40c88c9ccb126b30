"""Which process plays which rollouts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.training.rollout_shares import Rollouts, expected_cost, share_out
from support.fake_engine import FakeEngine, FlowTask, explored, run_play, write_letters, writer


def loads(rollouts: list[Rollouts], ranks: list[int], processes: int) -> list[float]:
    found = [0.0] * processes
    for each, rank in zip(rollouts, ranks, strict=True):
        found[rank] += each.cost
    return found


def test_rollouts_go_to_who_has_little_to_do() -> None:
    rollouts = [Rollouts(0, 10.0, may_move=True) for _ in range(6)] + [
        Rollouts(1, 10.0, may_move=True)
    ]
    ranks = share_out(rollouts, 3)
    assert sorted(loads(rollouts, ranks, 3)) == [20.0, 20.0, 30.0]
    assert ranks[6] == 1


def test_what_may_not_move_stays_and_so_does_what_is_even() -> None:
    fixed = [Rollouts(0, 10.0, may_move=False) for _ in range(6)]
    assert share_out(fixed, 3) == [0] * 6
    even = [Rollouts(rank, 10.0 + rank / 100, may_move=True) for rank in range(3)]
    assert share_out(even, 3) == [0, 1, 2]
    assert share_out([], 3) == []


@given(
    st.lists(
        st.builds(
            Rollouts, st.integers(0, 3), st.floats(0, 1e6, allow_subnormal=False), st.booleans()
        ),
        max_size=30,
    )
)
def test_nobody_gets_more_to_do_than_somebody_had(rollouts: list[Rollouts]) -> None:
    ranks = share_out(rollouts, 4)
    before = loads(rollouts, [each.owner for each in rollouts], 4)
    assert max(loads(rollouts, ranks, 4)) <= max(before) * (1 + 1e-9)
    for each, rank in zip(rollouts, ranks, strict=True):
        assert each.may_move or rank == each.owner


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
    assert found[0] == pytest.approx(alternatives) if reports == 1 else found[0] > 100
    assert found == sorted(found, reverse=True) or reports == 1
