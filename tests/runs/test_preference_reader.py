"""What is exported from a store is what was stored, in one stream."""

from __future__ import annotations

import gc
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from flowtune_cli.flow.surrogates import escaped
from flowtune_cli.runs.batch import BatchRecord
from flowtune_cli.runs.preference_reader import sample_preferences, stream_preferences
from flowtune_cli.runs.reader import RunReader, has_data
from flowtune_cli.runs.store import Store
from report.stored_runs import make_run, preference_batch, sums_run
from support.random_batches import batches, played, question_of


def as_stored(records: list[BatchRecord], node: str | None = None) -> list[tuple[Any, ...]]:
    """The preferences of batches, as they come out."""
    return [
        (
            record.position + number,
            preference.step,
            preference.alternative,
            escaped(preference.chosen.text),
            escaped(preference.rejected.text),
            preference.margin,
            escaped(trace.episode.steps[preference.step].response.prompt),
            trace.example.id,
        )
        for record in records
        for number, trace in enumerate(record.traces)
        for preference in sorted(trace.preferences, key=lambda p: (p.step, p.alternative))
        if node in (None, preference.node)
    ]


@settings(max_examples=25)
@given(batches())
def test_every_preference_with_its_prompt(records: list[BatchRecord]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.sqlite"
        with Store(path, question_of) as store:
            for record in records:
                store.write_batch(record)
        with RunReader(path) as reader:
            for node in (None, "rank"):
                found = [
                    (
                        preference.episode,
                        preference.step,
                        preference.alternative,
                        preference.chosen,
                        preference.rejected,
                        preference.margin,
                        preference.prompt,
                        preference.example_id,
                    )
                    for preference in stream_preferences(reader, node)
                ]
                assert found == as_stored(records, node)


def test_only_those_of_the_first_episodes(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    with RunReader(run.store_path) as reader:
        some = list(stream_preferences(reader, episodes=5))
        assert some == [p for p in stream_preferences(reader) if p.episode < 5]
        assert {p.episode for p in some} == {0, 1, 2, 3, 4} & {p.episode for p in some}
        assert some


def test_how_an_output_came_about(tmp_path: Path) -> None:
    chosen = make_run(tmp_path, [preference_batch([("a", "b")], tokens=0)])
    with RunReader(chosen.store_path) as reader:
        [preference] = stream_preferences(reader)
        assert (preference.generated, preference.greedy_chosen) == (False, False)
        assert (preference.adapter_version, preference.question) == (2, "What?")
    with RunReader(sums_run(tmp_path, name="sums").store_path) as reader:
        found = list(stream_preferences(reader))
        assert all(preference.generated for preference in found)
        assert {preference.greedy_chosen for preference in found} == {True, False}
        for preference in found:
            greedy = reader.episode(preference.episode).steps[preference.step].output
            assert preference.greedy_chosen == (preference.chosen == greedy)


@pytest.mark.parametrize("cut", ["greedy", "other", ""])
def test_whether_one_of_both_was_cut_off(tmp_path: Path, cut: str) -> None:
    run = make_run(tmp_path, [preference_batch([("a", "b")], cut=cut)])
    with RunReader(run.store_path) as reader:
        [preference] = stream_preferences(reader)
        assert preference.truncated == bool(cut)


@pytest.mark.parametrize(("count", "places"), [(1, [0]), (3, [0, 19, 39]), (99, range(40))])
def test_a_sample_is_spread_from_the_first_to_the_last(
    tmp_path: Path, count: int, places: list[int]
) -> None:
    with RunReader(sums_run(tmp_path).store_path) as reader:
        everything = list(stream_preferences(reader, "draw"))
        assert len(everything) == 40
        assert sample_preferences(reader, "draw", count) == [everything[place] for place in places]
        assert sample_preferences(reader, "nobody", count) == []


def test_every_episode_whole(tmp_path: Path) -> None:
    run = sums_run(tmp_path, 3)
    with RunReader(run.store_path) as reader:
        lines = [json.loads(json.dumps(episode)) for episode in reader.stream_episodes()]
        assert [line["number"] for line in lines] == list(range(9))
        whole = reader.episode(4)
    assert lines[4]["steps"][0]["output"]["text"] == whole.steps[0].output
    assert lines[4]["rollouts"][0]["outcome"] == whole.rollouts[0].outcome.value
    assert len(lines[4]["preferences"]) == len(whole.preferences)


def test_a_stream_does_not_see_what_is_written_meanwhile(tmp_path: Path) -> None:
    run = sums_run(tmp_path, 2)
    with RunReader(run.store_path) as reader:
        stream = reader.stream_episodes()
        next(stream)
        with Store(run.store_path, question_of) as store:
            store.write_batch(list(played(3))[2])
        assert len(list(stream)) == 5
        assert len(list(reader.stream_episodes())) == 9


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    def peak(episodes: int) -> int:
        pairs = [("chosen " * 200 + str(n), "rejected " * 200) for n in range(episodes)]
        record = preference_batch(pairs, prompt="prompt " * 500)
        path = make_run(tmp_path, [record], f"of-{episodes}").store_path
        del record, pairs
        with RunReader(path) as reader:
            tracemalloc.start()
            for stream in (stream_preferences(reader), reader.stream_episodes()):
                for number, _ in enumerate(stream):
                    if number % 10 == 0:
                        gc.collect()
            top = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return top

    peak(5)
    assert peak(400) < 2 * peak(20)


def test_whether_a_run_has_data(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    assert not has_data(path)
    path.touch()
    assert not has_data(path)
    with Store(path, question_of):
        assert has_data(path)
