"""Nodes that learned nothing, and evaluators, as the screens show them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from flowtune_cli.flow.deviation import Deviation, EvaluatorCall, Outcome
from flowtune_cli.flow.effect import EffectRecord
from flowtune_cli.flow.episode import Failure, RequestError
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.store import Store
from flowtune_cli.tui.app import InspectApp
from flowtune_cli.tui.screen_export import episode_markdown, rollout_markdown
from flowtune_cli.tui.widgets.detail import rollout_detail, step_detail
from support.random_batches import Sums, played, question_of
from tui.conftest import make_run, press, settle, text_of

WARNING = (
    "node 'add' has learned nothing: it could not learn from any of its 36 targets: the right"
    " output, or a wrong one, was not among those that it could give."
)


def test_the_overview_and_the_list_of_its_episodes_say_why_a_node_learned_nothing(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "run")
    with Store(run.store_path, question_of) as store:
        targets = len([t for r in played(12) for t in r.traces for _ in t.episode.targets])
        store.write_task(Sums.nodes, None)
    app = InspectApp(tmp_path / "run", is_run=True)
    warning = WARNING.replace("36", str(targets))

    async def look() -> None:
        async with app.run_test(size=(200, 40)) as pilot:
            await settle(pilot)
            assert f"→ {warning}" in text_of(app)
            await press(pilot, "enter")  # the first node is add
            assert warning in text_of(app)
            await press(pilot, "escape", "j", "enter")
            assert "node draw" in text_of(app)
            assert "has learned nothing" not in text_of(app)

    asyncio.run(look())


def test_what_an_evaluator_was_shown_and_how_it_failed(tmp_path: Path) -> None:
    [record] = played(1, size=8)
    trace = next(t for t in record.traces if any(d.rollout for d in t.deviations))

    def judged(deviation: Deviation) -> Deviation:
        calls = (EvaluatorCall("Which?\nA: x", (("A", -0.25), ("B", -1.5)), 7),)
        return replace(
            deviation,
            outcome=Outcome.EVALUATOR_FAILED,
            gain=None,
            reason="judge: TimeoutError: late",
            failure=Failure("TimeoutError: late", "Traceback: late"),
            evaluator_calls=calls,
        )

    trace.deviations, trace.preferences = [judged(d) for d in trace.deviations], []
    run = RunDirectory.create(tmp_path, "run", task="sums", model="none", settings={})
    with Store(run.store_path, question_of) as store:
        store.write_batch(replace(record, traces=[trace]))
    with RunReader(run.store_path) as reader:
        episode = reader.episode(0)
        counts = reader.counts()
    assert counts.rollouts[Outcome.EVALUATOR_FAILED] == len(episode.rollouts)
    rollout = episode.rollouts[0]
    shown = rollout_detail(episode, rollout, diff=False, width=60).plain
    assert "⊗ EVALUATOR FAILED" in shown
    assert "none, because the evaluator failed (judge: TimeoutError: late)" in shown
    assert "prompt 1 of the evaluator  SHORTENED by 7 tokens" in shown
    assert "Which?" in shown
    assert "→ A  logprob -0.25" in shown
    assert "→ B  logprob -1.50" in shown
    assert "Traceback: late" in shown
    written = rollout_markdown(episode, rollout)
    assert "The evaluator showed the model:\n\n```\nWhich?\nA: x\n```" in written
    assert "| A | -0.250 |" in written


def test_effects_are_shown_where_they_were_run(tmp_path: Path) -> None:
    [record] = played(1, size=8)
    trace = next(t for t in record.traces if len(t.episode.steps) > 1 and t.deviations)
    trace.episode.effects = [
        EffectRecord(0, "tools.search", '["x"]', '{"hits": 3}', None),
        EffectRecord(len(trace.episode.steps), "tools.send", "[]", None, "TimeoutError: late"),
    ]
    deviation = trace.deviations[0]
    assert deviation.rollout is not None
    late = deviation.step + 1
    deviation.rollout.effects = [
        EffectRecord(0, "tools.search", '["x"]', '{"hits": 3}', None, again=True),
        EffectRecord(late, "tools.search", '["y"]', "null", None),
        EffectRecord(late, "tools.send", "[]", None, "TimeoutError: late", again=True),
    ]
    run = RunDirectory.create(tmp_path, "run", task="sums", model="none", settings={})
    with Store(run.store_path, question_of) as store:
        store.write_batch(replace(record, traces=[trace]))
    with RunReader(run.store_path) as reader:
        episode = reader.episode(0)
    first, last = (step_detail(episode, episode.steps[n]).plain for n in (0, -1))
    assert 'effects before it\ntools.search("x")\n  → {"hits": 3}\n' in first
    assert "tools.send" not in first
    assert "effects after it\ntools.send()\n  → raised TimeoutError: late" in last
    shown = rollout_detail(episode, episode.rollouts[0], diff=False, width=60).plain
    assert 'effects of the rollout\ntools.search("y")\n  → null\n' in shown
    assert "tools.send()  as before\n  → raised TimeoutError: late" in shown
    assert 'search("x")' not in shown
    written = episode_markdown("run", episode)
    assert "| effect before it | end |" in written
    assert "| effect of the rollout | end |" in written


def test_requests_of_a_program_that_failed_are_kept_and_shown(tmp_path: Path) -> None:
    [record] = played(1, size=8)
    trace = next(t for t in record.traces if t.deviations and t.deviations[0].rollout)
    rollout = trace.deviations[0].rollout
    assert rollout is not None
    unknown = RequestError("model 'x' does not exist", "model_not_found", "flow.py, line 3")
    # Its file's name is no UTF-8.
    of_odd_file = RequestError("z", None, "\udcff.py, line 3")
    from_outside = RequestError("'n': one answer a call")
    trace.episode.request_errors = [unknown, of_odd_file, from_outside]
    rollout.request_errors = [from_outside]
    run = RunDirectory.create(tmp_path, "run", task="sums", model="none", settings={})
    with Store(run.store_path, question_of) as store:
        store.write_batch(replace(record, traces=[trace]))
    with RunReader(run.store_path) as reader:
        episode = reader.episode(0)
    *others, odd = episode.request_errors
    assert others == [from_outside, unknown]
    assert odd.place == "\\udcff.py, line 3"
    assert [r.request_errors for r in episode.rollouts][:1] == [(from_outside,)]
    shown = step_detail(episode, episode.steps[-1]).plain
    title = "requests of the episode that failed"
    end = "model 'x' does not exist\n  flow.py, line 3"
    assert f"{title}\n  'n': one answer a call\n  {end}" in shown
    assert shown.count(title) == 1
    shown = rollout_detail(episode, episode.rollouts[0], diff=False, width=60).plain
    assert "requests of the rollout that failed\n  'n': one answer a call" in shown
    written = episode_markdown("run", episode)
    assert "| model 'x' does not exist | flow.py, line 3 |" in written
    assert written.count("| request of the rollout that failed | place |") == 1
