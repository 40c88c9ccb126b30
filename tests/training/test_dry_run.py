"""What a run is expected to take, against what it then takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.training.dry_run import Expectation, expect
from support.tiny_training import Run

MakeRun = Callable[..., Run]


def expected(run: Run, held_out: int = 0) -> Expectation:
    session = run.session()
    return expect(session, session.learner(), run.examples, held_out)


def test_calls_and_tokens_are_those_of_the_first_mini_batch_scaled(make_run: MakeRun) -> None:
    one = make_run(count=2, batch_size=2)
    one.train()
    found = expected(make_run(count=2, batch_size=2))
    with RunReader(one.directory.store_path) as reader:
        nodes, counts = {n.node: n for n in reader.node_summary()}, reader.counts()
    assert (found.examples, found.episodes, found.tried) == (2, 2, 2)
    assert found.preferences == counts.preferences > 0
    assert {n.node for n in found.nodes} >= nodes.keys()
    for each in found.nodes:
        assert each.read == nodes[each.node].prompt_tokens
        assert each.written == nodes[each.node].tokens
        assert each.calls >= nodes[each.node].steps

    more = make_run(count=8, batch_size=2, passes=3)
    scaled = expected(more)
    assert (scaled.examples, scaled.episodes, scaled.tried) == (8, 24, 2)
    once = make_run(count=8, batch_size=2)
    in_one_pass = expected(once)
    assert scaled.nodes[0].calls == pytest.approx(3 * in_one_pass.nodes[0].calls)
    assert scaled.preferences == pytest.approx(3 * in_one_pass.preferences)
    assert not more.directory.store_path.exists()


def test_evaluations_take_their_time(make_run: MakeRun) -> None:
    run = make_run(count=8, batch_size=2, held_out=5, evaluate={"every": 4})
    without, found = expected(run), expected(run, 50)
    assert without.evaluation_seconds == 0
    assert 0 < found.evaluation_seconds < found.seconds
    assert found.usage.peak_memory > 10**7


async def broken(episode: Episode, example: Example) -> None:
    raise ValueError("out of order")


def test_a_flow_that_always_fails_is_an_error(make_run: MakeRun) -> None:
    run = make_run(flow=broken, count=4)
    with pytest.raises(FlowtuneError, match=r"(?s)failed for all of the 2 examples.*out of order"):
        expected(run)
