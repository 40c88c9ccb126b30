"""Deviations that are played to several endings: what is averaged, and what is not played."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowtune_cli.flow.deviation import Deviation, Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Call, Node, NodeOutput, Response
from flowtune_cli.runs.batch import BatchRecord, batch_rows
from flowtune_cli.runs.running_totals import node_rows
from flowtune_cli.runtime.effects import Effects
from support.fake_engine import (
    EXAMPLE,
    FakeEngine,
    FlowTask,
    digest,
    values,
    write_letters,
    write_number,
    writer,
)
from support.noisy import NoisyEngine, draw, drawn, judged_last, say, tried

# The mean of endings, against endings that are played one after the other without any replay

calls = st.tuples(st.just("call"), st.sampled_from(["draw", "draw", "plain"]))
blocks = st.lists(st.one_of(calls, calls, st.tuples(st.just("reward"))), min_size=1, max_size=4)
programs = st.lists(st.one_of(calls, calls, st.tuples(st.just("loop"), blocks)), max_size=4)


Known = dict[Any, str]
Played = tuple[float, Known]


def walk(program: Any, memory: list[str]) -> Any:
    """What a program does: yields a call and gets its answer, or yields a reward."""
    for kind, *rest in program:
        if kind == "call":
            memory.append((yield rest[0], " ".join(memory[-2:])))
        elif kind == "reward":
            yield None, digest(memory) % 5 / 4
        else:
            for _ in range(1 + digest(memory[-1]) % 2):
                yield from walk(rest[0], memory)


class Walking(FlowTask):
    def __init__(self, program: Any) -> None:
        self.program = [("call", "draw"), *program, ("call", "draw"), ("reward",)]
        super().__init__([draw("r", alternatives=2), writer("plain", "r")], self._flow)

    async def _flow(self, episode: Episode, example: Example) -> Any:
        steps = walk(self.program, ["begin"])
        answer = None
        while True:
            try:
                node, shown = steps.send(answer)
            except StopIteration:
                return None
            answer = None
            if node is None:
                episode.reward("r", shown)
            else:
                answer = await say(episode, node, shown)

    def played_apart(self, outputs: list[str], ending: int, known: Known | None = None) -> Played:
        """The first reward behind some outputs, without the project's replay.

        Args:
            known: answers of the episode, which stand for what is called in the same way again.
        """
        calls: Counter[Any] = Counter()
        answers: Known = {}
        steps = walk(self.program, ["begin"])
        answer = None
        while True:
            node, shown = steps.send(answer)
            answer = None
            if node is None:
                if len(answers) >= len(outputs):
                    return float(shown), answers
                continue
            more = (f"ending {ending}",) if ending else ()
            seed = (0, EXAMPLE.id, node, calls[node], *more)
            key = (node, shown, calls[node, shown])
            calls.update([node, (node, shown)])
            if len(answers) < len(outputs):
                answer = outputs[len(answers)]
            elif not ending and known and key in known:
                answer = known[key]
            elif node == "draw":
                answer = drawn(f"[user]\n{shown}", seed)
            else:
                answer = write_number(f"plain:{shown}", 0)
            answers[key] = answer


@given(programs, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_margin_is_the_mean_of_endings_that_are_played_apart(program: Any, most: int) -> None:
    task = Walking(program)
    trace = tried(NoisyEngine(), task, most)
    assert trace.failures == []
    preferences = {(p.step, p.alternative): p for p in trace.preferences}
    _, known = task.played_apart([_text(each.output.value) for each in trace.episode.steps], 0)
    for step in trace.episode.steps:
        before = [_text(each.output.value) for each in trace.episode.steps[: step.index]]
        for number, output in enumerate(step.response.outputs):
            if not number:
                own = _text(output.value)
                continue
            gains = [
                task.played_apart([*before, _text(output.value)], ending, known)[0]
                - task.played_apart([*before, own], ending, known)[0]
                for ending in range(most)
            ]
            mean = sum(gains) / most
            if mean == pytest.approx(0):
                assert (step.index, number) not in preferences
                continue
            preference = preferences[step.index, number]
            assert preference.margin == pytest.approx(abs(mean))
            assert (preference.chosen is output) == (mean > 0)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.text)


def stored(trace: Trace) -> list[Any]:
    record = BatchRecord(0, [trace], 0, {})
    return [*batch_rows(record, str, {}), *node_rows(record, {})]


@given(programs)
@settings(max_examples=30, deadline=None)
def test_without_sampling_nothing_changes_with_the_number_of_endings(program: Any) -> None:
    def played(most: int) -> tuple[Any, Any]:
        task = Walking(program)
        task.nodes_by_name["draw"].temperature = 0.0
        engine = NoisyEngine()
        return stored(tried(engine, task, most)), engine.requests

    assert played(1) == played(4)


# What is played


def endings(trace: Trace) -> list[tuple[int, int, int]]:
    return [(d.step, d.alternative, d.ending) for d in trace.deviations]


def test_both_sides_of_an_ending_have_its_noise_and_the_first_is_the_episodes_own() -> None:
    engine = NoisyEngine(write_letters)
    trace = tried(engine, FlowTask([writer("a"), draw()], judged_last("a", "draw")), 3)
    assert endings(trace) == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]
    own = (0, EXAMPLE.id, "draw", 0)
    others = [(*own, f"ending {number}") for number in (1, 2)]
    assert sorted(engine.seeds, key=repr) == sorted([own, own, *others, *others], key=repr)
    assert trace.deviations[0].baseline is None
    for deviation in trace.deviations[1:]:
        assert deviation.baseline is not None
        assert deviation.rollout is not None
        assert [s.output.text for s in deviation.baseline.steps[:1]] == ["A"]
        assert [s.output.text for s in deviation.rollout.steps[:1]] == ["B"]
    assert len(trace.runs) == 6


def test_the_episodes_side_is_played_once_for_all_alternatives_of_a_step() -> None:
    engine = NoisyEngine(write_letters)
    nodes = [writer("a", alternatives=3), draw()]
    trace = tried(engine, FlowTask(nodes, judged_last("a", "draw")), 2)
    assert len(trace.deviations) == 6
    assert len({id(d.baseline) for d in trace.deviations if d.ending}) == 1
    assert len(engine.seeds) == 1 + 3 + 1 + 3


def test_what_was_drawn_before_a_step_stays_and_asks_for_no_further_ending() -> None:
    engine = NoisyEngine(write_letters)
    trace = tried(engine, FlowTask([writer("a"), draw()], judged_last("draw", "a", "a")), 4)
    assert endings(trace) == [(1, 1, 0), (2, 1, 0)]
    assert len(engine.seeds) == 1


def test_noise_behind_the_reward_that_judges_a_step_is_nothing_to_it() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        said = await say(episode, "a", "x")
        episode.reward("reward", said == "B")
        await say(episode, "draw", said)

    trace = tried(NoisyEngine(write_letters), FlowTask([writer("a"), draw()], flow), 4)
    assert endings(trace) == [(0, 1, 0)]

    async def by_call(episode: Episode, example: Example) -> None:
        call = episode.call("a", x="x")
        said = await call
        later = await say(episode, "draw", said)
        episode.reward("reward", int(later), call)

    trace = tried(NoisyEngine(write_letters), FlowTask([writer("a"), draw()], by_call), 2)
    assert endings(trace) == [(0, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize("drawing", ["A", "B"])
def test_a_side_that_draws_nothing_is_played_once(drawing: str) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        said = await say(episode, "a", "x")
        value = int(await say(episode, "draw", said)) if said == drawing else 3
        episode.reward("reward", value)

    engine = NoisyEngine(write_letters)
    trace = tried(engine, FlowTask([writer("a"), draw()], flow), 3)
    assert endings(trace) == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]
    assert len(engine.seeds) == 3
    assert len(trace.runs) == 4  # one on the side that draws nothing
    rewards = [(d.greedy_reward, d.alternative_reward) for d in trace.deviations]
    assert {pair["AB".index("B" if drawing == "A" else "A")] for pair in rewards} == {3}
    totals = {
        row["node"]: row["outputs"] for _, row in node_rows(BatchRecord(0, [trace], 0, {}), {})
    }
    assert totals["draw"] == 3  # each call counts once, however many endings share it


def test_calls_that_were_made_beside_the_step_are_kept_in_every_ending() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        said, beside = await asyncio.gather(say(episode, "a", "x"), say(episode, "draw", "x"))
        last = await say(episode, "draw", said)
        episode.reward("reward", digest(beside, last) % 5)

    trace = tried(NoisyEngine(write_letters), FlowTask([writer("a"), draw()], flow), 3)
    assert len(trace.deviations) == 3
    texts = {run.steps[1].output.text for run in trace.runs}
    assert len(texts) == 1


def test_a_node_that_draws_by_itself_says_so() -> None:
    class Dice(Node):
        kind = "dice"
        uses_adapter = False

        def prompt_text(self, inputs: Any) -> str:
            return str(inputs)

        async def respond(self, call: Call) -> Response:
            text = str(digest(call.seed) % 6)
            return Response("", (NodeOutput(text, text),), sampled=True)

        def target_data(self, response: Response, gold: Any) -> Any:
            raise NotImplementedError

    task = FlowTask([writer("a"), Dice(name="dice")], judged_last("a", "dice"))
    assert len(tried(FakeEngine(write_letters), task, 3).deviations) == 3


# What is compared


def test_an_ending_that_fails_or_is_undefined_on_one_side_is_left_out_of_the_mean() -> None:
    async def flow(episode: Episode, example: Example) -> None:
        said = await say(episode, "a", "x")
        number = int(await say(episode, "draw", said))
        if number == 0:
            raise OSError("no")
        episode.reward("reward", None if number == 1 and said == "B" else number)

    # Of sixteen endings some fail, some are undefined.
    trace = tried(NoisyEngine(write_letters), FlowTask([writer("a"), draw()], flow), 16)
    outcomes = [deviation.outcome for deviation in trace.deviations]
    assert {Outcome.FAILED, Outcome.UNDEFINED} <= set(outcomes)
    failed = [d for d in trace.deviations if d.outcome is Outcome.FAILED]
    assert any("the episode's own side failed: OSError" in d.reason for d in failed)
    assert len(trace.failures) == sum(run.failure is not None for run in trace.runs)
    gains = [d.gain for d in trace.deviations if d.gain is not None]
    assert 0 < len(gains) < 16
    (preference,) = trace.preferences
    assert preference.margin == pytest.approx(abs(sum(gains) / len(gains)))


def test_an_evaluator_compares_the_two_sides_of_each_ending() -> None:
    class Longer:
        name = "longer"

        def compare(
            self, ask: Any, task: Any, example: Any, first: Episode, second: Episode
        ) -> float:
            seen.append((first.result, second.result))
            return float(len(seen))

    async def flow(episode: Episode, example: Example) -> Any:
        said = await say(episode, "a", "x")
        return said + await say(episode, "draw", said)

    seen: list[Any] = []
    effects = Effects()
    nodes = [writer("a", None, evaluator="longer"), draw()]
    task = FlowTask(nodes, flow)
    evaluators = {"a": Longer()}
    trace = tried(NoisyEngine(write_letters), task, 3, evaluators=evaluators, effects=effects)

    def sides(deviation: Deviation) -> Any:
        first = deviation.baseline or trace.episode
        assert deviation.rollout is not None
        return first.result, deviation.rollout.result

    assert sorted(seen) == sorted(map(sides, trace.deviations))
    assert len(effects.ends) == 3  # each is kept, and not asked again
    assert trace.preferences[0].margin == 2.0


def test_the_default_is_one_ending() -> None:
    trace = tried(NoisyEngine(write_letters), FlowTask([writer("a")], values({"A": 0, "B": 1})), 1)
    assert [d.ending for d in trace.deviations] == [0]
