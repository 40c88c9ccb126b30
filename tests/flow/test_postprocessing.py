"""Post-processors: which rollouts they get, in which order they come, and what they must keep."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from flowtune_cli.exploration import DiverseBeam
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.postprocessing import PostProcessor, post_process
from flowtune_cli.runtime.play import play_with_rollouts
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run,
    run_play,
    two_stages,
    writer,
)
from support.fake_engine import write_letters as letters


def task(log: list[str] | None = None, **more: Any) -> FlowTask:
    """a and b deviate, judged by what is stated right after them; c does not."""
    nodes = [
        writer("a", "found", alternatives=2, **more),
        writer("b", "answered"),
        writer("c", None, learn="supervised"),
    ]
    return FlowTask(nodes, two_stages([] if log is None else log))


def played(task: FlowTask, engine: FakeEngine, *nodes: str) -> Any:
    explorations = {name: DiverseBeam() for name in nodes}
    return run(engine, play_with_rollouts(task, EXAMPLE, explorations=explorations, seed=3))[0]


def test_only_the_named_nodes_deviate_and_their_rollouts_go_to_the_end() -> None:
    engine = FakeEngine(letters)
    episode, rollouts = played(task(), engine, "a")
    assert episode.result == run_play(FakeEngine(letters), task()).result
    assert [(r["node"], r["step"], r["alternative"]) for r in rollouts] == [
        ("a", 0, 1),
        ("a", 0, 2),
    ]
    assert [r["result"] for r in rollouts] == ["A", "A"], "to the result, though 'found' is known"
    shown = {request.prompt.text for request in engine.requests}
    assert {"b:A", "b:B", "b:C"} <= shown
    assert len(engine.exploring) == 1


def test_a_node_that_learns_otherwise_can_be_deviated_at() -> None:
    supervised = task(learn="supervised")
    assert "a" not in explored(supervised)
    _, rollouts = played(supervised, FakeEngine(letters), "a")
    assert len(rollouts) == 2


def test_alternatives_are_played_where_rewards_are_undefined() -> None:
    async def flow(episode: Any, example: Any) -> str:
        episode.undefined("found")
        return await episode.call("a", x=1)

    engine = FakeEngine(letters)
    asked = FlowTask([writer("a", "found", alternatives=2)], flow)
    _, rollouts = played(asked, engine, "a")
    assert [r["result"] for r in rollouts] == ["B", "C"]


def test_without_nodes_it_is_the_greedy_episode_alone() -> None:
    engine = FakeEngine()
    episode, rollouts = played(task(), engine)
    assert rollouts == []
    assert engine.exploring == []
    assert episode.result == run_play(FakeEngine(), task()).result


def test_a_rollout_that_failed_has_no_result_and_a_failed_episode_no_rollouts() -> None:
    def failing(text: str) -> FlowTask:
        async def flow(episode: Any, example: Any) -> str:
            said = await episode.call("a", x=1)
            if said == text:
                raise RuntimeError("no")
            return said

        return FlowTask([writer("a", alternatives=2)], flow)

    _, rollouts = played(failing("B"), FakeEngine(letters), "a")
    assert [r["result"] for r in rollouts] == [None, "C"]
    episode, rollouts = played(failing("A"), FakeEngine(letters), "a")
    assert episode.failure is not None
    assert rollouts == []


class Append(PostProcessor):
    """Adds its name to a line."""

    tasks: ClassVar[Any] = ("flow",)

    def __init__(self, name: str, order: int = 0) -> None:
        self.name = name  # type: ignore[misc]
        self.order = order  # type: ignore[misc]

    def apply(self, task: Any, examples: Any, lines: Any, note: Any) -> Any:
        note(self.name)
        return [{**line, "by": line["by"] + self.name} for line in lines]


class Reverse(Append):
    def apply(self, task: Any, examples: Any, lines: Any, note: Any) -> Any:
        return lines[::-1]


@pytest.mark.parametrize("given", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_they_come_in_their_own_order(given: tuple[int, ...]) -> None:
    processors = [Append("late", 1), Append("b"), Append("a")]
    notes: list[str] = []
    lines = [{"id": "x", "by": ""}]
    done = post_process([processors[n] for n in given], task(), [], lines, notes.append)
    assert done == [{"id": "x", "by": "ablate"}]
    assert notes == ["a", "b", "late"]
    assert lines == [{"id": "x", "by": ""}]


def test_one_that_loses_the_order_is_stopped() -> None:
    lines = [{"id": "x"}, {"id": "y"}]
    with pytest.raises(FlowtuneError, match="'bad' changed the number or order of the lines"):
        post_process([Reverse("bad")], task(), [], lines, print)
