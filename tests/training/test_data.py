"""What a mini-batch gives each node to learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowtune_cli.flow.deviation import Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import (
    Call,
    ChoiceDatum,
    Node,
    NodeOutput,
    PreferenceDatum,
    Response,
    TextDatum,
)
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Judge
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.training.data import collect
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    explored,
    run,
    run_deviate,
    write_letters,
    writer,
)


class Coin(Node):
    """Needs no language model: its outputs have no score."""

    kind = "coin"
    uses_adapter = False

    def prompt_text(self, inputs: Any) -> str:
        return str(inputs)

    async def respond(self, call: Call) -> Response:
        outputs = tuple(NodeOutput(value=side, text=side) for side in ("heads", "tails"))
        return Response(
            self.prompt_text(call.inputs), outputs if call.wants_alternatives else outputs[:1]
        )

    def target_data(self, response: Response, gold: Any) -> list[Any]:
        return []


async def flow(episode: Episode, example: Example) -> None:
    written = await episode.call("write", x=example.question)
    side = await episode.call("coin")
    episode.reward("reward", {"A": 0.25, "B": 1.0, "C": 0.0}[written] + (side == "heads"))
    await episode.call("judge", x=written)
    episode.target("judge", "No")
    episode.target("write", "gold")
    answer = await episode.call("answer", x=written)
    episode.target("answer", "gold")
    if example.id == "fails":
        raise ValueError(answer)


NODES: list[Node] = [
    writer("answer", None, learn="supervised", weight=0.5),
    writer("write", alternatives=2, weight=3.0),
    writer("idle"),
    Judge(name="judge", prompt=Template("{x}", chat=False), learn="supervised"),
    Coin(name="coin", reward="reward"),
]
TASK = FlowTask(NODES, flow)


def trace_of(example_id: str = "example-1") -> Trace:
    return run_deviate(FakeEngine(write_letters), TASK, example=replace(EXAMPLE, id=example_id))


def test_preferences_count_by_margin_and_weight() -> None:
    trace = trace_of()
    mine = collect(TASK.nodes, [trace])["write"]
    # B is better than A by 0.75, and A than C by 0.25; both three times.
    a, b, c = trace.episode.steps[0].response.outputs
    assert a.score is not None
    assert b.score is not None
    assert c.score is not None
    assert mine.data == [
        PreferenceDatum("write", b.score, a.score, 2.25),
        PreferenceDatum("write", a.score, c.score, 0.75),
    ]
    assert [p.margin for p in mine.preferences] == [0.75, 0.25]


def test_targets_go_to_supervised_nodes_alone() -> None:
    trace = trace_of()
    found = collect(TASK.nodes, [trace])
    assert found["write"].targets == []
    (datum,) = found["answer"].data
    assert isinstance(datum, TextDatum)
    assert (datum.node, datum.completion, datum.weight) == ("answer", " gold", 0.5)
    assert found["answer"].targets == [(trace.episode.steps[3].response, "gold")]
    (datum,) = found["judge"].data
    assert isinstance(datum, ChoiceDatum)
    assert datum.options[datum.right].terms[0].completion == "No"


def test_nodes_without_data_are_left_out_and_the_others_come_in_their_order() -> None:
    assert list(collect(TASK.nodes, [trace_of()])) == ["answer", "write", "judge", "coin"]
    assert collect(TASK.nodes, []) == {}


def test_outputs_without_a_score_give_preferences_and_no_data() -> None:
    coin = collect(TASK.nodes, [trace_of()])["coin"]
    assert coin.data == []
    assert [(p.chosen.value, p.rejected.value) for p in coin.preferences] == [("heads", "tails")]


def test_data_come_in_the_order_of_the_traces() -> None:
    one, two = trace_of("one"), trace_of("two")
    both = collect(TASK.nodes, [one, two])
    backwards = collect(TASK.nodes, [two, one])
    for name, mine in both.items():
        parts = [collect(TASK.nodes, [trace])[name] for trace in (one, two)]
        assert mine.data == parts[0].data + parts[1].data
        assert mine.targets == parts[0].targets + parts[1].targets
        assert backwards[name].preferences == parts[1].preferences + parts[0].preferences


def test_an_episode_that_failed_gives_nothing() -> None:
    failed = trace_of("fails")
    assert failed.episode.failure is not None
    assert failed.episode.targets
    assert collect(TASK.nodes, [failed]) == {}


def test_rollouts_that_failed_give_nothing() -> None:
    async def fragile(episode: Episode, example: Example) -> None:
        written = await episode.call("write", x=1)
        if written == "B":
            raise ValueError("never B")
        episode.reward("reward", float(written == "C"))

    task = FlowTask([writer("write", alternatives=2)], fragile)
    (trace,) = run(
        FakeEngine(write_letters),
        deviate(task, EXAMPLE, explorations=explored(task), evaluators={}),
    )
    mine = collect(task.nodes, [trace])["write"]
    assert [preference.alternative for preference in mine.preferences] == [2]
