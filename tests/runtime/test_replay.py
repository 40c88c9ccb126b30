"""Properties of replay and deviation over random flows, against runs that replay nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings

from flowtune_cli.flow.deviation import Outcome, Trace
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.node import Call, Node, NodeOutput, Response
from flowtune_cli.runtime.deviation import deviate
from flowtune_cli.runtime.effects import Effects
from flowtune_cli.runtime.play import recording_of
from flowtune_cli.runtime.recording import Recording
from flowtune_cli.runtime.replay import Plan, Replay
from support.fake_engine import EXAMPLE, FakeEngine, explored, run, run_deviate, run_play
from support.random_flows import Program, RandomTask, programs, random_nodes

few = settings(max_examples=40)


def calls(episode: Episode) -> list[tuple[int, str, str, Any]]:
    return [(step.index, step.node, step.prompt_text, step.output) for step in episode.steps]


def statements(episode: Episode) -> tuple[Any, ...]:
    return episode.rewards, episode.result


def first(episode: Episode, length: int) -> Recording:
    """What was recorded of the first calls of an episode, made one after the other."""
    recording = recording_of(episode)
    return Recording(
        {key: call for key, call in recording.calls.items() if call.step.index < length},
        recording.deliveries[:length],
    )


class Forced(Node):
    """A node that gives a certain output when its flow makes its call number ``at``."""

    kind = "forced"

    def __init__(self, inner: Node, made: list[str], at: int, output: NodeOutput) -> None:
        super().__init__(name=inner.name)
        self.inner, self.made, self.at, self.output = inner, made, at, output

    def prompt_text(self, inputs: Any) -> str:
        return self.inner.prompt_text(inputs)

    async def respond(self, call: Call) -> Response:
        self.made.append(self.name)
        response = await self.inner.respond(call)
        forced = len(self.made) - 1 == self.at
        return replace(response, outputs=(self.output,)) if forced else response

    def target_data(self, response: Response, gold: Any) -> Any:
        raise NotImplementedError


def play_forced(program: Program, at: int, output: NodeOutput) -> Episode:
    """Play to the end from the beginning, without any replay, with an output in its place."""
    made: list[str] = []
    task = RandomTask(program, [Forced(node, made, at, output) for node in random_nodes()])
    return run_play(FakeEngine(), task)


@few
@given(programs)
def test_a_replayed_prefix_gives_the_same_calls(program: Program) -> None:
    whole = run_play(FakeEngine(), RandomTask(program))
    assert whole.failure is None
    for length in range(len(whole.steps) + 1):
        engine = FakeEngine()
        again = run_play(engine, RandomTask(program), Plan(recording=first(whole, length)))
        assert again.failure is None
        assert calls(again) == calls(whole)
        assert statements(again) == statements(whole)
        assert again.targets == whole.targets
        assert len(engine.requests) == len(whole.steps) - length


@few
@given(programs)
def test_substituting_the_greedy_output_gives_the_same_episode(program: Program) -> None:
    whole = run_play(FakeEngine(), RandomTask(program))
    for step in whole.steps:
        plan = Plan(recording=recording_of(whole), substitute=(step, 0))
        again = run_play(FakeEngine(), RandomTask(program), plan)
        assert again.failure is None
        assert calls(again) == calls(whole)
        assert statements(again) == statements(whole)
        assert again.targets == []
        assert [s.substituted for s in again.steps] == [s is step for s in whole.steps]


@few
@given(programs)
def test_rollouts_equal_runs_that_replay_nothing(program: Program) -> None:
    trace = run_deviate(FakeEngine(), RandomTask(program))
    for deviation in trace.deviations:
        if deviation.rollout is None:
            continue
        step = trace.episode.steps[deviation.step]
        output = step.response.outputs[deviation.alternative]
        whole = play_forced(program, deviation.step, output)
        rollout = deviation.rollout
        assert calls(rollout) == calls(whole)[: len(rollout.steps)]
        assert rollout.rewards == whole.rewards[: len(rollout.rewards)]
        if not rollout.stopped_early:
            assert statements(rollout) == statements(whole)
            assert len(rollout.steps) == len(whole.steps)
        name = RandomTask(program).node(step.node).reward
        judging = [s.value for s in whole.rewards if s.name == name and s.steps > step.index]
        assert deviation.alternative_reward == (judging[0] if judging else None)


@few
@given(programs)
def test_a_flow_costs_as_many_rollouts_as_it_has_alternatives(program: Program) -> None:
    engine = FakeEngine()
    task = RandomTask(program)
    trace = run_deviate(engine, task)
    episode = trace.episode

    expected: list[tuple[int, int]] = []
    skipped: list[tuple[int, int]] = []
    exploring = 0
    for step in episode.steps:
        node = task.node(step.node)
        if not node.deviates:
            assert len(step.response.outputs) == 1
            continue
        exploring += step.node.startswith("write")
        judging = [
            s.value for s in episode.rewards if s.name == node.reward and s.steps > step.index
        ]
        where = expected if judging and judging[0] is not None else skipped
        where += [(step.index, n + 1) for n in range(len(step.response.outputs) - 1)]

    rollouts = [d for d in trace.deviations if d.rollout is not None]
    assert [(d.step, d.alternative) for d in rollouts] == expected
    assert all(d.outcome is not Outcome.SKIPPED for d in rollouts)
    others = [d for d in trace.deviations if d.rollout is None]
    assert [(d.step, d.alternative) for d in others] == skipped
    assert all(d.outcome is Outcome.SKIPPED and d.gain is None and d.reason for d in others)
    # A rollout asks for nothing up to the deviation, and for one answer a call behind it that the
    # episode has not made, too.
    made = {(step.node, step.prompt_text) for step in episode.steps}
    behind = [s for d in rollouts if d.rollout for s in d.rollout.steps[d.step + 1 :]]
    assert all((s.node, s.prompt_text) in made for s in behind if s.recorded)
    new_calls = sum(not step.recorded for step in behind)
    assert len(engine.requests) == len(episode.steps) + new_calls
    # Rollouts never deviate themselves: all that explored was the episode.
    assert len(engine.exploring) == exploring
    for d in rollouts:
        assert d.rollout is not None
        assert all(len(s.response.outputs) == 1 for s in d.rollout.steps[d.step + 1 :])
        assert [s.substituted for s in d.rollout.steps] == [
            s.index == d.step for s in d.rollout.steps
        ]


def effects_of(episode: Episode) -> Effects:
    assert isinstance(episode.runner, Replay)
    return episode.runner.effects


@few
@given(programs)
def test_tools_run_once_for_the_episode_and_its_rollouts(program: Program) -> None:
    task = RandomTask(program)
    alone = RandomTask(program)
    episode = run_play(FakeEngine(), alone)
    trace = run_deviate(FakeEngine(), task)
    assert statements(trace.episode) == statements(episode)
    # The episode's own runs come first; then only runs that no one did before are added.
    assert task.tool_runs[: len(alone.tool_runs)] == alone.tool_runs
    rollouts = [d.rollout for d in trace.deviations if d.rollout]
    effects = effects_of(trace.episode)
    assert len(effects.ends) == len(task.tool_runs)
    assert all(effects_of(rollout) is effects for rollout in rollouts)


@few
@given(programs)
def test_results_do_not_depend_on_what_runs_side_by_side(program: Program) -> None:
    def traces(**more: int) -> list[tuple[Any, ...]]:
        task = RandomTask(program)
        explorations = explored(task)
        examples = [replace(EXAMPLE, id=f"e{n}", inputs={"question": f"q{n}"}) for n in range(4)]
        coroutines = [deviate(task, e, explorations=explorations, evaluators={}) for e in examples]
        return [facts(trace) for trace in run(FakeEngine(), *coroutines, **more)]

    one_by_one = traces(in_flight=1, batch_requests=1)
    assert traces(in_flight=3, batch_requests=2) == one_by_one
    assert traces(in_flight=64) == one_by_one


def facts(trace: Trace) -> tuple[Any, ...]:
    return (
        trace.example.id,
        calls(trace.episode),
        statements(trace.episode),
        [
            (d.step, d.alternative, d.outcome, d.gain, d.rollout and calls(d.rollout))
            for d in trace.deviations
        ],
        trace.preferences,
    )
