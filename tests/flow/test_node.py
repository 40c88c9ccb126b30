"""What every node has, and a node that needs no language model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flowtune_cli.flow.deviation import Outcome, Preference
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Call, Datum, Node, NodeOutput, Response, SelfLearning
from support.fake_engine import FakeEngine, FlowTask, run_deviate, writer


@pytest.mark.parametrize(
    ("settings", "deviates"),
    [
        ({}, True),
        ({"reward": None}, False),
        ({"reward": None, "evaluator": "e"}, True),
        ({"learn": "supervised"}, False),
        ({"learn": "nothing"}, False),
        ({"alternatives": 0}, False),
    ],
)
def test_deviates(settings: dict[str, Any], deviates: bool) -> None:
    assert writer("a", **{"reward": "r", **settings}).deviates is deviates


def test_nodes_that_learn_have_an_adapter() -> None:
    assert writer("a").adapter_name == "a"
    assert writer("a", learn="supervised").adapter_name == "a"
    assert writer("a", learn="nothing").adapter_name is None
    assert writer("a").initial_head() == {}


@dataclass(kw_only=True)
class WordRank(SelfLearning, Node):
    """Ranks its candidates by learned weights of its own."""

    kind = "word_rank"
    uses_adapter = False

    weights: dict[str, float] = field(default_factory=dict)

    def prompt_text(self, inputs: Mapping[str, Any]) -> str:
        return "\n".join(inputs["candidates"])

    async def respond(self, call: Call) -> Response:
        ranked = sorted(call.inputs["candidates"], key=lambda c: -self.weights.get(c, 0.0))
        outputs = tuple(NodeOutput(value=c, text=c) for c in ranked)
        return Response(
            prompt=self.prompt_text(call.inputs),
            outputs=outputs[: 1 + self.alternatives] if call.wants_alternatives else outputs[:1],
            options=outputs,
        )

    def target_data(self, response: Response, gold: Any) -> Sequence[Datum]:
        return []

    def update(
        self, preferences: Sequence[Preference], targets: Sequence[tuple[Response, Any]]
    ) -> float:
        for preference in preferences:
            chosen, rejected = preference.chosen.value, preference.rejected.value
            self.weights[chosen] = self.weights.get(chosen, 0.0) + preference.margin
            self.weights[rejected] = self.weights.get(rejected, 0.0) - preference.margin
        return 0.0

    def state(self) -> Mapping[str, Any]:
        return {"weights": self.weights}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state["weights"])


async def pick(episode: Episode, example: Example) -> Any:
    picked = await episode.call("pick", candidates=["x", "y", "z"])
    answer = await episode.call("answer", x=picked)
    episode.reward("reward", float(picked == "z"))
    return answer


def test_a_node_without_a_language_model_learns_from_the_same_preferences() -> None:
    ranker = WordRank(name="pick", reward="reward", alternatives=2)
    assert ranker.adapter_name is None
    task = FlowTask([ranker, writer("answer", None)], pick)
    engine = FakeEngine()
    trace = run_deviate(engine, task)
    assert [d.outcome for d in trace.deviations] == [Outcome.TIE, Outcome.ALTERNATIVE_BETTER]
    (preference,) = trace.preferences
    assert (preference.chosen.value, preference.rejected.value) == ("z", "x")
    assert preference.chosen.score is None
    assert preference.rejected.score is None
    # Only the writer asked the engine: in the episode and in both rollouts.
    assert [request.adapter for request in engine.requests] == ["answer"] * 3

    ranker.update(trace.preferences, [])
    assert run_deviate(engine, task).episode.steps[0].output.value == "z"

    restored = WordRank(name="pick", reward="reward")
    restored.load_state(json.loads(json.dumps(ranker.state())))
    assert restored.weights == ranker.weights
