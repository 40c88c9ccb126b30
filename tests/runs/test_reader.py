"""What is read is what was written: whole episodes, pages of them, series and summaries."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from flowtune_cli.flow.deviation import Outcome, Trace
from flowtune_cli.flow.effect import EffectRecord
from flowtune_cli.flow.episode import Episode, Step
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.runs import read_only
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.records import (
    AlternativeRecord,
    EpisodeRecord,
    EvaluatorCallRecord,
    Filter,
    Order,
    PreferenceRecord,
    RolloutRecord,
    StepRecord,
)
from flowtune_cli.runs.store import BatchRecord, MetricRecord, Store, UpdateRecord
from support.random_batches import batches, played, question_of


def escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def expected_step(step: Step, *, own: bool) -> StepRecord:
    response, output = step.response, step.output
    return StepRecord(
        step.index,
        step.node,
        escaped(response.prompt),
        escaped(output.text),
        response.adapter_version,
        response.prompt_tokens,
        output.tokens,
        output.logprob,
        output.truncated,
        response.dropped_tokens,
        step.substituted,
        {} if step.substituted else response.detail,
        tuple(
            AlternativeRecord(i, escaped(other.text), other.logprob, other.tokens, other.truncated)
            for i, other in enumerate(response.outputs)
            if own and i > 0
        ),
    )


def expected_effects(effects: Sequence[EffectRecord], step: int) -> Iterator[EffectRecord]:
    for effect in effects:
        if effect.steps > step:
            values = {name: escaped(getattr(effect, name)) for name in ("name", "args")}
            values["result"] = None if effect.result is None else escaped(effect.result)
            values["error"] = escaped(effect.error) if effect.error else None
            yield replace(effect, **values)


def expected(trace: Trace, number: int, batch: int) -> EpisodeRecord:
    episode = trace.episode
    failure = episode.failure
    stored_rollouts = []
    for count, d in enumerate(trace.deviations, 1):
        failed = d.failure or (d.rollout.failure if d.rollout else None)
        live = d.rollout.steps[d.step :] if d.rollout else []
        stored_rollouts.append(
            RolloutRecord(
                count,
                d.step,
                d.node,
                d.alternative,
                d.outcome,
                d.greedy_reward,
                d.alternative_reward,
                d.gain,
                escaped(d.reason),
                escaped(failed.traceback) if failed else None,
                d.rollout.stopped_early if d.rollout else False,
                d.rollout.result if d.rollout else None,
                tuple(expected_step(step, own=False) for step in live),
                tuple(
                    EvaluatorCallRecord(escaped(call.prompt), call.answers, call.dropped_tokens)
                    for call in d.evaluator_calls
                ),
                tuple(expected_effects(d.rollout.effects, d.step) if d.rollout else ()),
            )
        )
    return EpisodeRecord(
        number,
        batch,
        trace.example.id,
        f"What is {trace.example.id}?",
        trace.example.gold,
        episode.result,
        escaped(failure.error) if failure else None,
        escaped(failure.traceback) if failure else None,
        tuple(episode.rewards),
        tuple(episode.targets),
        tuple(expected_step(step, own=True) for step in episode.steps),
        tuple(stored_rollouts),
        tuple(
            PreferenceRecord(
                p.step,
                p.node,
                p.alternative,
                escaped(p.chosen.text),
                escaped(p.rejected.text),
                p.margin,
            )
            for p in trace.preferences
        ),
        tuple(expected_effects(episode.effects, -1)),
    )


def write(path: Path, records: Sequence[BatchRecord]) -> RunReader:
    with Store(path, question_of) as store:
        for record in records:
            store.write_batch(record)
    return RunReader(path)


@settings(max_examples=20)
@given(batches(max_size=2))
def test_what_was_written_is_read(records):
    with (
        tempfile.TemporaryDirectory() as directory,
        write(Path(directory, "store.sqlite"), records) as reader,
    ):
        summaries = reader.summaries(reader.numbers())
        number = 0
        for record in records:
            for trace in record.traces:
                assert reader.episode(number) == expected(trace, number, record.batch)
                episode, summary = trace.episode, summaries[number]
                assert (summary.number, summary.batch) == (number, record.batch)
                assert summary.rewards == episode.reward_means()
                assert list(summary.rewards) == list(episode.reward_means())
                assert summary.steps == len(episode.steps)
                assert summary.truncated == sum(s.output.truncated for s in episode.steps)
                assert summary.dropped_tokens == sum(
                    s.response.dropped_tokens for s in episode.steps
                )
                assert summary.rollouts == len(trace.deviations)
                assert summary.preferences == len(trace.preferences)
                number += 1
            for name, metric in record.metrics.items():
                points = [p for p in reader.metrics()[name] if p.batch == record.batch]
                assert [(p.episodes, p.metric) for p in points] == [(number, metric)]
            for update in record.updates:
                points = [p for p in reader.updates()[update.node] if p.batch == record.batch]
                assert [(p.episodes, p.update) for p in points] == [(number, update)]
        assert len(summaries) == number == reader.counts().episodes
        ends = itertools.accumulate(len(record.traces) for record in records)
        moved = [(e, r.reference_update) for e, r in zip(ends, records, strict=True)]
        assert reader.reference_updates() == [(e, nodes) for e, nodes in moved if nodes]


@settings(max_examples=20)
@given(batches(max_size=2))
def test_what_is_counted_is_what_was_written(records):
    with (
        tempfile.TemporaryDirectory() as directory,
        write(Path(directory, "store.sqlite"), records) as reader,
    ):
        traces = [trace for record in records for trace in record.traces]
        deviations = [deviation for trace in traces for deviation in trace.deviations]
        outcomes = Counter((d.node, d.outcome) for d in deviations)
        counts = reader.counts()
        assert counts.batches == len(records)
        assert counts.failed == sum(t.episode.failure is not None for t in traces)
        assert counts.rollouts == {o: sum(d.outcome is o for d in deviations) for o in Outcome}
        assert counts.preferences == sum(len(t.preferences) for t in traces)
        assert counts.targets == sum(len(t.episode.targets) for t in traces)

        for node in reader.node_summary():
            steps = [s for t in traces for s in t.episode.steps if s.node == node.node]
            live = [
                s
                for d in deviations
                for s in (d.rollout.steps if d.rollout else [])[d.step + 1 :]
                if s.node == node.node
            ]
            others = [output for s in steps for output in s.response.outputs[1:]]
            assert node.steps == len(steps)
            assert node.truncated == sum(
                output.truncated for output in [*others, *(s.output for s in steps + live)]
            )
            better = outcomes[node.node, Outcome.ALTERNATIVE_BETTER]
            worse = outcomes[node.node, Outcome.GREEDY_BETTER]
            assert (node.better, node.worse) == (better, worse)
            assert node.ties == outcomes[node.node, Outcome.TIE]
            assert node.undefined == outcomes[node.node, Outcome.UNDEFINED]
            assert node.failed == outcomes[node.node, Outcome.FAILED]
            assert node.evaluator_failed == outcomes[node.node, Outcome.EVALUATOR_FAILED]
            assert node.skipped == outcomes[node.node, Outcome.SKIPPED]
            assert node.win_rate == (better / (better + worse) if better + worse else None)
            assert node.preferences == sum(
                p.node == node.node for t in traces for p in t.preferences
            )
            written = [s.output.text for s in steps[-50:] if s.output.tokens]
            common = node.most_common_output
            assert (common.calls if common else 0) == len(written)
            if common is not None:
                assert common.count == max(Counter(written).values())
                assert common.count == written.count(common.output)
            losses = [u.loss for r in records for u in r.updates if u.node == node.node]
            assert node.last_loss == next((x for x in reversed(losses) if x is not None), None)
        assert {s.node for t in traces for s in t.episode.steps} <= {
            node.node for node in reader.node_summary()
        }


@pytest.fixture
def records() -> list[BatchRecord]:
    return list(played(12))


@pytest.fixture
def reader(tmp_path, records):
    with write(tmp_path / "store.sqlite", records) as reader:
        yield reader


def test_episodes_come_from_either_end(reader):
    assert list(reader.numbers())[5:9] == [5, 6, 7, 8]
    assert list(reader.numbers(order=Order(descending=True)))[:3] == [35, 34, 33]
    assert [e.number for e in reader.summaries([34, 35, 36])] == [34, 35]
    assert reader.summaries([0])[0].question == "the sum of 0"


def test_episodes_are_filtered(reader, records):
    traces = [trace for record in records for trace in record.traces]

    def found(where: Filter) -> list[int]:
        return list(reader.numbers(where))

    def those(fits) -> list[int]:
        return [number for number, trace in enumerate(traces) if fits(trace)]

    failed = those(lambda t: t.episode.failure)
    assert found(Filter(failed=True)) == failed != []
    assert found(Filter(failed=False)) == those(lambda t: not t.episode.failure)
    called = those(lambda t: any(s.node == "add" for s in t.episode.steps))
    assert found(Filter(node="add")) == called != []
    for outcome in set(Outcome) - {Outcome.EVALUATOR_FAILED}:  # the task has no evaluator
        ended_so = those(lambda t, o=outcome: any(d.outcome is o for d in t.deviations))
        assert found(Filter(outcome=outcome)) == ended_so != []
        assert found(Filter(outcome=outcome, node="draw")) == ended_so
        assert found(Filter(outcome=outcome, node="add")) == []
    assert found(Filter(example_id="e7")) == [7]
    assert found(Filter(example_id="e7", failed=7 not in failed)) == []


def test_the_flows_failure_is_stored_without_what_differs_between_runs(reader):
    (first, *_) = reader.summaries(reader.numbers(Filter(failed=True)))
    assert first.error == "RuntimeError: three is too much for <object object at 0x…>"
    assert "in run" in (reader.episode(first.number).traceback or "")


def test_real_summaries(reader, records):
    draw, add = sorted(reader.node_summary(), key=lambda node: node.node, reverse=True)
    margins = [p.margin for r in records for t in r.traces for p in t.preferences]
    assert draw.mean_margin == pytest.approx(sum(margins) / len(margins))
    assert draw.last_loss == 1 / 12
    assert draw.win_rate == pytest.approx(draw.better / (draw.better + draw.worse))
    assert min(draw.better, draw.worse, draw.ties, draw.undefined, draw.failed, draw.skipped) > 0
    assert draw.truncated > 0
    assert (add.preferences, add.mean_margin, add.win_rate, add.last_loss) == (0, None, None, None)
    assert (
        add.targets
        == add.steps
        == sum(len(t.episode.steps) == 3 for r in records for t in r.traces)
    )
    assert reader.timings() == {"play": sum(0.25 + batch for batch in range(12))}


def test_the_last_loss_is_the_latest_that_was_measured(tmp_path):
    losses = [3.0, 2.0, None]
    records = [
        BatchRecord(batch, [], 0, {}, [UpdateRecord("query", batch, batch, 0, 0, 0, loss=loss)])
        for batch, loss in enumerate(losses)
    ]
    with write(tmp_path / "store.sqlite", records) as reader:
        (query,) = reader.node_summary()
        assert query.last_loss == 2.0
        assert [p.update.loss for p in reader.updates()["query"]] == losses


def test_values_that_json_has_no_word_for_are_stored_the_same_in_every_process(tmp_path):
    fruit = ["apple", "cherry", "date", "fig", "kiwi", "lime", "mango", "pear", "plum"]
    gold = {("a", 1): set(fruit), "path": Path("x"), "it": object(), 3: (1, None)}
    example = Example("e", gold={"labels": gold})
    record = BatchRecord(0, [Trace(example, Episode(example, {}))], 0, {})
    with write(tmp_path / "store.sqlite", [record]) as reader:
        assert reader.episode(0).gold["labels"] == {
            "('a', 1)": fruit,
            "path": "x",
            "it": "<object object at 0x…>",
            "3": [1, None],
        }


def test_an_episode_that_is_not_there(reader, tmp_path):
    with pytest.raises(UsageError, match=r"no episode 36; it has 0 to 35"):
        reader.episode(36)
    with (
        write(tmp_path / "empty.sqlite", []) as empty,
        pytest.raises(UsageError, match="no episode 0; it has none yet"),
    ):
        empty.episode(0)


def test_a_store_that_is_not_there_or_not_begun(tmp_path):
    with pytest.raises(UsageError, match=r"there is no store .*none\.sqlite"):
        RunReader(tmp_path / "none.sqlite")
    (tmp_path / "new.sqlite").touch()
    with pytest.raises(UsageError, match=r"new\.sqlite is empty"):
        RunReader(tmp_path / "new.sqlite")


def test_a_reader_writes_nothing(reader, tmp_path):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM episodes")


def test_a_finished_store_is_read_where_nothing_can_be_written(tmp_path, records, monkeypatch):
    write(tmp_path / "store.sqlite", records).close()
    archive = tmp_path / "50% of #1?"
    archive.mkdir()
    shutil.copy(tmp_path / "store.sqlite", archive)
    really = read_only._open

    def on_a_read_only_mount(path, options, **more):
        if options == "mode=ro":
            raise sqlite3.OperationalError("unable to open database file")
        return really(path, options, **more)

    monkeypatch.setattr(read_only, "_open", on_a_read_only_mount)
    with RunReader(archive / "store.sqlite") as reader:
        assert reader.counts().episodes == 36
        assert [file.name for file in archive.iterdir()] == ["store.sqlite"]


GROWING = (
    *("steps", "alternatives", "rollouts", "preferences", "texts", "rewards", "targets"),
    *("node_totals", "timings", "metrics", "updates", "reference_updates", "examples"),
)


def test_a_long_run_is_read_through_indexes(tmp_path, records):
    """What a live view asks for again and again must not read every row."""
    reader = write(tmp_path / "store.sqlite", [replace(records[0], checkpoint=True)])
    queries: list[str] = []
    reader._connection.set_trace_callback(queries.append)
    reader.node_summary()
    reader.counts()
    reader.timings()
    reader.metrics(50)
    reader.updates(50)
    reader.reference_moves(50)
    reader.summaries([0, 1])
    list(reader.search("x", [0, 1]))
    reader.numbers(Filter(node="draw"))
    reader.numbers(Filter(outcome=Outcome.TIE, node="draw"))
    reader.episode(0)
    reader._connection.set_trace_callback(None)
    selects = [query for query in queries if query.lstrip().startswith("SELECT")]
    assert len(selects) > 10
    for query in selects:
        for row in reader._connection.execute(f"EXPLAIN QUERY PLAN {query}"):
            for table in GROWING:
                assert row["detail"] != f"SCAN {table}", query


# What a viewer asks for


def test_numbers_come_in_every_order(reader, records):
    traces = [trace for record in records for trace in record.traces]
    everything = list(range(36))
    assert list(reader.numbers()) == everything
    assert list(reader.numbers(order=Order(descending=True))) == everything[::-1]

    def check(order: Order, value) -> None:
        for descending in (False, True):
            found = list(reader.numbers(order=replace(order, descending=descending)))
            known = [n for n in everything if value(traces[n]) is not None]
            sign = -1 if descending else 1
            expected = sorted(known, key=lambda n: (sign * value(traces[n]), n))
            assert found == expected + [n for n in everything if n not in known]

    check(Order("steps"), lambda t: len(t.episode.steps))
    check(Order("preferences"), lambda t: len(t.preferences))
    check(Order("reward", "high"), lambda t: t.episode.reward_means().get("high"))
    check(
        Order("gain"),
        lambda t: max((d.gain for d in t.deviations if d.gain is not None), default=None),
    )


def test_preferences_and_cut_outputs_are_filtered(reader, records):
    traces = [trace for record in records for trace in record.traces]

    def those(fits) -> list[int]:
        return [number for number, trace in enumerate(traces) if fits(trace)]

    for wanted in (True, False):
        found = list(reader.numbers(Filter(preference=wanted)))
        assert found == those(lambda t, w=wanted: bool(t.preferences) == w) != []
        cut = those(lambda t, w=wanted: any(s.output.truncated for s in t.episode.steps) == w)
        assert list(reader.numbers(Filter(truncated=wanted))) == cut != []
    assert list(reader.numbers(Filter(node="draw", preference=True))) == those(
        lambda t: any(p.node == "draw" for p in t.preferences)
    )
    assert list(reader.numbers(Filter(node="add", preference=True))) == []
    cut_add = those(lambda t: any(s.node == "add" and s.output.truncated for s in t.episode.steps))
    assert list(reader.numbers(Filter(node="add", truncated=True))) == cut_add != []


def test_summaries_come_as_they_are_asked_for(reader):
    whole = reader.summaries(reader.numbers())
    assert reader.summaries([7, 3, 99, 35]) == [whole[7], whole[3], whole[35]]
    assert whole[0].rollouts == len(reader.episode(0).rollouts)


def test_a_search_looks_into_everything_that_is_said(tmp_path):
    (record,) = played(1, size=1)
    (trace,) = record.traces
    texts = ["in_prompt", "in%output", "in alternative", "in rollout"]
    step = trace.episode.steps[0]
    outputs = tuple(
        replace(output, text=text)
        for output, text in zip(step.response.outputs, texts[1:3], strict=False)
    )
    response = replace(step.response, prompt=texts[0], outputs=outputs)
    trace.episode.steps[0] = replace(step, response=response, output=outputs[0])
    later = trace.deviations[0].rollout.steps
    later[-1] = replace(later[-1], output=replace(later[-1].output, text=texts[3]))
    with write(tmp_path / "store.sqlite", [record]) as reader:

        def found(text: str) -> list[int]:
            return [n for part in reader.search(text, [0]) for n in part.matches]

        for text in [*texts, "THE SUM OF 0", "in_p", "n%o", "N ALT"]:
            assert found(text) == [0], text
        for text in ["inXprompt", "in_output", "nowhere", "in%prompt"]:
            assert found(text) == [], text


def test_a_search_goes_on_in_the_order_given(reader):
    parts = list(reader.search("the sum", [35, 2, 30, 1], chunk_size=3))
    assert [(part.searched, part.matches) for part in parts] == [(3, (35, 2, 30)), (4, (1,))]


def test_changes_tell_whether_somebody_has_written(tmp_path, records):
    with (
        write(tmp_path / "store.sqlite", records[:1]) as reader,
        Store(tmp_path / "store.sqlite", question_of) as store,
    ):
        first = reader.changes()
        assert reader.changes() == first
        store.write_batch(records[1])
        assert reader.changes() != first


def test_a_series_is_sampled_at_the_ends_of_windows_if_there_are_enough(tmp_path):
    records = [
        BatchRecord(
            batch, [], 0, {}, metrics={"m": MetricRecord(batch, batch, batch, 0)},
            updates=[UpdateRecord("query", 0, 0, 0, 0, 0)], checkpoint=batch % 10 == 9,
            reference_update={"query": batch in (19, 59)} if batch % 10 == 9 else None,
        )
        for batch in range(95)
    ]  # fmt: skip
    with write(tmp_path / "store.sqlite", records) as reader:

        def sampled(points: int) -> list[int]:
            assert [p.batch for p in reader.updates(points)["query"]] == [
                p.batch for p in reader.metrics(points)["m"]
            ]
            return [point.batch for point in reader.metrics(points)["m"]]

        assert sampled(1) == [89, 94]
        assert sampled(4) == [19, 39, 69, 89, 94]
        assert sampled(9) == [*range(9, 95, 10), 94]
        assert sampled(30) == [(n + 1) * 95 // 30 - 1 for n in range(30)]
        assert sampled(1000) == list(range(95))
        assert len(reader.reference_moves(4)) == 2
        assert reader.node_summary()[0].reference_moves == 2


def test_totals_survive_margins_that_cannot_be_summed(tmp_path):
    (record,) = played(1, size=8)
    trace = next(trace for trace in record.traces if trace.preferences)
    for margin in (float("inf"), float("-inf"), 1.0):
        trace.preferences.append(replace(trace.preferences[0], margin=margin, step=margin == 1.0))
    trace.preferences[:] = [
        replace(p, alternative=10 + number) for number, p in enumerate(trace.preferences)
    ]
    with write(tmp_path / "store.sqlite", [record]) as reader:
        (draw,) = [node for node in reader.node_summary() if node.node == "draw"]
        assert draw.mean_margin is None
        assert draw.preferences == sum(len(t.preferences) for t in record.traces)


def test_tokens_are_counted_wherever_a_call_was_made(reader, records):
    traces = [trace for record in records for trace in record.traces]
    calls = [s for t in traces for s in t.episode.steps]
    rollouts = [(d.step, d.rollout) for t in traces for d in t.deviations if d.rollout]
    calls += [s for step, rollout in rollouts for s in rollout.steps[step + 1 :] if not s.recorded]
    for node in reader.node_summary():
        mine = [s for s in calls if s.node == node.node]
        own = [s for t in traces for s in t.episode.steps if s.node == node.node]
        others = sum(o.tokens for s in own for o in s.response.outputs[1:])
        assert node.prompt_tokens == sum(s.response.prompt_tokens for s in mine)
        assert node.tokens == sum(s.output.tokens for s in mine) + others
