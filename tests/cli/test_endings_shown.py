"""Several endings of an alternative, as they are stored, inspected and printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.cli.episode_json import trace_json
from flowtune_cli.cli.episode_view import view
from flowtune_cli.flow.deviation import Trace, mean_gains
from flowtune_cli.nodes import Chat
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import BatchRecord, Store
from flowtune_cli.training.admission.sampling import sampling_findings
from flowtune_cli.tui.explanations import explain_rollout, explain_step
from flowtune_cli.tui.screen_export import rollout_markdown
from support.fake_engine import FlowTask, write_letters, writer
from support.noisy import NoisyEngine, draw, judged_last, tried


@pytest.fixture
def task() -> FlowTask:
    return FlowTask([writer("a"), draw()], judged_last("a", "draw"))


@pytest.fixture
def trace(task: FlowTask) -> Trace:
    """Three endings, one of which says the opposite of their mean, or nothing."""
    for seed in range(99):
        found = tried(NoisyEngine(write_letters), task, 3, seed=seed)
        (mean,) = mean_gains(found.deviations).values()
        if mean and any((deviation.gain or 0.0) * mean <= 0 for deviation in found.deviations):
            return found
    raise AssertionError


def test_play_prints_each_ending_and_the_mean_behind_the_last(task: FlowTask, trace: Trace) -> None:
    lines = [line for line, _ in view(task, trace, full=True)]
    shown = [line for line in lines if line.startswith("    ending ")]
    assert [line.split(":")[0].strip() for line in shown] == ["ending 0", "ending 1", "ending 2"]
    assert sum(line.startswith("  alternative 1: ") for line in lines) == 1
    (preference,) = [line for line in lines if "preference: chosen" in line]
    margin = trace.preferences[0].margin
    assert preference.endswith(f"margin {margin:.3f}, the mean gain of 3 endings")
    assert lines.index(preference) > lines.index(shown[-1])


def test_json_has_both_sides_of_each_ending(task: FlowTask, trace: Trace) -> None:
    rollouts = trace_json(task, trace)["rollouts"]
    assert [each["ending"] for each in rollouts] == [0, 1, 2]
    assert rollouts[0]["baseline"] is None
    for each, deviation in zip(rollouts[1:], trace.deviations[1:], strict=True):
        assert deviation.baseline is not None
        own = [step["output"]["text"] for step in each["baseline"]["steps"]]
        assert own == [step.output.text for step in deviation.baseline.steps]


def test_a_run_stores_each_ending_as_a_rollout_of_its_own(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "run.sqlite"
    with Store(path, lambda example: "why") as store:
        store.write_batch(BatchRecord(0, [trace], 0, {"a": 0}))
    with RunReader(path) as reader:
        episode = reader.episode(0)
        (summary,) = reader.summaries([0])
    gains = [deviation.gain for deviation in trace.deviations]
    assert [(r.alternative, r.ending, r.gain) for r in episode.rollouts] == [
        (1, ending, gain) for ending, gain in enumerate(gains)
    ]
    (gain,) = mean_gains(trace.deviations).values()
    assert summary.best_gain == gain
    (preference,) = trace.preferences
    sides = ["alternative 1", "the greedy output"]
    chosen, rejected = sides if preference.chosen.text == "B" else sides[::-1]
    for rollout in episode.rollouts:  # whatever it says itself
        text = explain_rollout(episode, rollout)
        assert text.startswith(f"chosen {chosen}, rejected {rejected}, margin ")
        assert text.endswith(", the mean gain of 3 endings")
        assert f"step 0, ending {rollout.ending}:" in rollout_markdown(episode, rollout)
    assert explain_step(episode, episode.steps[0]) == "1 alternative(s) tried, 1 preference(s) made"


def test_the_check_notes_that_a_sampling_flow_is_judged_by_one_ending(
    task: FlowTask, trace: Trace
) -> None:
    (finding,) = sampling_findings(task, [trace], 1)
    assert (finding.code, finding.severity, finding.node) == ("one-ending", "note", "draw")
    assert list(sampling_findings(task, [trace], 2)) == []
    still = FlowTask([writer("a"), writer("b", None)], judged_last("a", "b"))
    found = tried(NoisyEngine(write_letters), still, 1)
    assert list(sampling_findings(still, [found], 1)) == []


def test_the_check_notes_an_exploration_that_is_not_used() -> None:
    for temperature, codes in ((1.0, ["exploration-unused"]), (0.0, [])):
        chat = Chat(name="draw", temperature=temperature, reward="reward", exploration="other")
        task = FlowTask([chat], judged_last("draw"))
        engine = NoisyEngine(write_letters)
        found = tried(engine, task, 2)
        assert [each.code for each in sampling_findings(task, [found], 2)] == codes
