"""Why a node has learned nothing, worked out from the stored counts of runs without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.runs.batch import BatchRecord, MetricRecord, UpdateRecord
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import Store
from flowtune_cli.training.data import collect
from support.fake_engine import FakeEngine, Flow, FlowTask, run_deviate, write_letters, writer


def warnings_of(
    directory: Path,
    nodes: Sequence[Node],
    flow: Flow,
    *,
    evaluators: Mapping[str, Any] | None = None,
    gate: str | None = None,
    write: Any = write_letters,
    examples: int = 3,
) -> list[str]:
    """The warnings about a run of two batches, in which nodes learn whatever they can."""
    task = FlowTask(nodes, flow)
    path = directory / "store.sqlite"
    with Store(path, task.question_text) as store:
        store.write_task(nodes, gate)
        names: set[str] = set()
        for batch in range(2):
            found = [
                run_deviate(
                    FakeEngine(write), task, evaluators, Example(f"e{n}", {"question": "?"}, n)
                )
                for n in range(batch * examples, (batch + 1) * examples)
            ]
            names.update(event.name for trace in found for event in trace.episode.rewards)
            data = collect(nodes, found)
            updates = [
                UpdateRecord(n, 0, 1, len(d.data), len(d.preferences), len(d.targets))
                for n, d in data.items()
            ]
            metrics = {name: MetricRecord(None, None, 0, 0) for name in names}
            store.write_batch(
                BatchRecord(batch, found, batch * examples, {}, updates, metrics=metrics)
            )
    with RunReader(path) as reader:
        return [warning.text for warning in reader.learning_warnings()]


def rewarding(name: str = "quality", *values: float | None) -> Flow:
    """Calls node a; A is worth the first value, and any other output the last one."""

    async def flow(episode: Episode, example: Example) -> None:
        written = await episode.call("a", x=1)
        episode.reward(name, values[0 if written == "A" else -1])

    return flow


async def silent(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)


async def before(episode: Episode, example: Example) -> None:
    episode.reward("quality", 1.0)
    await episode.call("a", x=1)


async def failing(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)
    raise KeyError("x")


async def failing_rollout(episode: Episode, example: Example) -> None:
    if await episode.call("a", x=1) != "A":
        raise KeyError("x")
    episode.reward("quality", 1.0)


async def announcing(episode: Episode, example: Example) -> None:
    episode.undefined("quality")
    await episode.call("a", x=1)
    episode.reward("quality", None)


async def elsewhere(episode: Episode, example: Example) -> None:
    await episode.call("b", x=1)
    episode.reward("quality", 1.0)


async def targets(episode: Episode, example: Example) -> None:
    await episode.call("a", x=1)
    episode.target("a", "right")


class Raising:
    name = "strict"

    async def compare(self, *of: Any) -> float:
        raise TimeoutError("late")


NONE_BETTER = "none of its 6 alternatives was better or worse: 6 "


@pytest.mark.parametrize(
    ("settings", "flow", "reason"),
    [
        (
            {"reward": "quality"},
            rewarding("qualty", 0.0, 1.0),
            "the flow never reported its reward 'quality'. Did you mean 'qualty'? It reported:"
            " qualty",
        ),
        (
            {"reward": "quality"},
            silent,
            "the flow never reported its reward 'quality'. It reported: none",
        ),
        (
            {"reward": None},
            rewarding("right", 0.0, 1.0),
            "it has neither a reward nor an evaluator. Set 'reward' to one that the flow reports"
            " (right), or learn = 'nothing'",
        ),
        (
            {"reward": None},
            targets,
            "it has neither a reward nor an evaluator. Set 'reward' to one that the flow reports"
            " (none), or learn = 'nothing'. The flow reports targets for it: learn = 'supervised'"
            " uses them",
        ),
        (
            {"alternatives": 0},
            rewarding("quality", 0.0, 1.0),
            "its 'alternatives' is 0, so no other output is tried",
        ),
        ({"weight": 0.0}, rewarding("quality", 0.0, 1.0), "its 'weight' is 0"),
        ({}, elsewhere, "it was not called in 6 episodes"),
        ({}, failing, "each of the 6 calls of it was in an episode that failed"),
        (
            {},
            rewarding("quality", 0.5),
            "each of the 6 alternatives of it tied with the greedy output",
        ),
        (
            {},
            before,
            NONE_BETTER + "were not played, as reward 'quality' was not reported after the call",
        ),
        (
            {},
            rewarding("quality", None),
            NONE_BETTER + "were not played, as reward 'quality' was undefined",
        ),
        (
            {},
            rewarding("quality", 1.0, None),
            NONE_BETTER
            + "could not be compared, as reward 'quality' was undefined or missing in the rollout",
        ),
        ({}, failing_rollout, NONE_BETTER + "ended in a failure of the flow"),
        (
            {},
            announcing,
            "the flow announced reward 'quality' as undefined at each of the 6 calls of it",
        ),
        (
            {"reward": None, "evaluator": {"name": "strict"}},
            silent,
            NONE_BETTER + "could not be compared, as evaluator 'strict' failed",
        ),
        (
            {"learn": "supervised"},
            silent,
            "the flow reported no target for it. Call episode.target('a', ...), or set"
            " learn = 'nothing'",
        ),
    ],
)
def test_the_reason(settings: Any, flow: Flow, reason: str, tmp_path: Path) -> None:
    nodes = [writer("a", **{"reward": "quality", **settings}), writer("b", None, learn="nothing")]
    found = warnings_of(tmp_path, nodes, flow, evaluators={"a": Raising()})
    assert found == [f"node 'a' has learned nothing: {reason}"]


def test_no_other_output_is_found(tmp_path: Path) -> None:
    nodes = [writer("a", "quality", max_new_tokens=3)]
    flow = rewarding("quality", 0.0, 1.0)
    found = warnings_of(tmp_path, nodes, flow, write=lambda prompt, output: "A")
    assert found == [
        "node 'a' has learned nothing: no other output was found at each of the 6 calls of it"
    ]


@pytest.mark.parametrize(
    ("settings", "flow"),
    [
        ({}, rewarding("quality", 0.0, 1.0)),
        ({"learn": "supervised"}, targets),
        ({"learn": "nothing", "reward": None}, silent),
        ({"learn": "nothing"}, elsewhere),
    ],
)
def test_no_warning_where_it_learned_or_was_not_to(
    settings: Any, flow: Flow, tmp_path: Path
) -> None:
    nodes = [writer("a", **{"reward": "quality", **settings}), writer("b", None, learn="nothing")]
    assert warnings_of(tmp_path, nodes, flow) == []


def test_a_gate_that_is_never_reported(tmp_path: Path) -> None:
    found = warnings_of(
        tmp_path, [writer("a", "quality")], rewarding("quality", 0.0, 1.0), gate="qualiti"
    )
    assert found == [
        "no reference moves: the flow never reported the gate 'qualiti'. Did you mean 'quality'?"
        " It reported: quality"
    ]


def test_a_run_without_episodes_says_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite", str) as store:
        store.write_task([writer("a", None)], "gate")
    with RunReader(tmp_path / "store.sqlite") as reader:
        assert reader.learning_warnings() == []
        assert [node.node for node in reader.node_summary()] == ["a"]


def test_an_exception_for_a_target_fails_the_episode(tmp_path: Path) -> None:
    class Strict(type(writer("a"))):  # type: ignore[misc]
        def target_data(self, response: Any, gold: Any) -> Any:
            raise KeyError(gold)

    node = Strict(name="a", prompt=writer("a").prompt, learn="supervised")
    found = warnings_of(tmp_path, [node], targets)
    assert found == [
        "node 'a' has learned nothing: each of the 6 calls of it was in an episode that failed"
    ]
    with RunReader(tmp_path / "store.sqlite") as reader:
        assert reader.counts().failed == 6
        assert reader.episode(0).error == "KeyError: 'right'"


def test_a_target_that_cannot_be_learned_names_the_example(tmp_path: Path) -> None:
    async def wrong(episode: Episode, example: Example) -> None:
        await episode.call("a", x=1)
        episode.target("a", 5)

    with pytest.raises(FlowtuneError, match="example 'e0': node 'a'"):
        warnings_of(tmp_path, [writer("a", None, learn="supervised")], wrong)
