"""Which process plays which rollouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.replay import Plan
from flowtune_cli.training.rollout_shares import Rollouts, expected_cost, owners, share_out
from support.fake_engine import FakeEngine, FlowTask, explored, run_play, write_letters, writer


def loads(rollouts: list[Rollouts], ranks: list[int], processes: int) -> list[float]:
    found = [0.0] * processes
    for each, rank in zip(rollouts, ranks, strict=True):
        found[rank] += each.cost
    return found


def of(owner: int, cost: float = 10.0, *, example: int = 0, read: float = 0.0) -> Rollouts:
    return Rollouts(example, owner, cost, read, may_move=True)


def test_examples_are_shared_out_by_the_length_of_their_texts() -> None:
    inputs = [{"x": "a" * length, "n": 3} for length in (10, 10, 40, 10, 10)]
    assert owners(inputs, 2) == [1, 1, 0, 1, 1]
    assert owners([{"x": ["a", {"b": "c"}]}] * 5, 3) == [0, 1, 2, 0, 1]
    assert owners([], 2) == []


def test_rollouts_go_to_who_has_little_to_do() -> None:
    rollouts = [*(of(0) for _ in range(6)), of(1)]
    ranks = share_out(rollouts, 3)
    assert sorted(loads(rollouts, ranks, 3)) == [20.0, 20.0, 30.0]
    assert ranks[6] == 1


def test_an_episode_s_prompts_are_read_anew_once_where_its_rollouts_go() -> None:
    # To read them costs more than there is to gain.
    assert share_out([of(0, read=31.0) for _ in range(4)], 2) == [0] * 4
    # Of two examples whose rollouts could move, all that do are of one.
    rollouts = [of(0, example=number % 2, read=15.0) for number in range(10)]
    moved = [each for each, rank in zip(rollouts, share_out(rollouts, 2), strict=True) if rank]
    assert len(moved) > 1
    assert len({each.example for each in moved}) == 1


def test_what_may_not_move_stays_and_so_does_what_is_even() -> None:
    fixed = [replace(of(0), may_move=False) for _ in range(6)]
    assert share_out(fixed, 3) == [0] * 6
    assert share_out([of(rank, 10.0 + rank / 100) for rank in range(3)], 3) == [0, 1, 2]
    assert share_out([], 3) == []


costs = st.floats(0, 1e6, allow_subnormal=False)


@given(
    st.lists(
        st.builds(
            Rollouts, st.integers(0, 5), st.integers(0, 3), costs, costs, may_move=st.booleans()
        ),
        max_size=30,
    )
)
def test_nobody_gets_more_to_do_than_somebody_had(rollouts: list[Rollouts]) -> None:
    ranks = share_out(rollouts, 4)
    before = loads(rollouts, [each.owner for each in rollouts], 4)
    after = loads(rollouts, ranks, 4)
    for each, rank in zip(rollouts, ranks, strict=True):
        assert each.may_move or rank == each.owner
    assert max(after) <= max(before) * (1 + 1e-9)


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
