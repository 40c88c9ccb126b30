"""What the screens say: differences, reasons, findings, and what is exported."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowtune_cli.flow.deviation import Outcome
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.runs.batch import UpdateRecord
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.records import Counts, Filter, MostCommonOutput, NodeSummary, Order
from flowtune_cli.runs.serialization import visible
from flowtune_cli.tui.episode_query import EpisodeQuery, QueryResult, run_query
from flowtune_cli.tui.explanations import explain_rollout, explain_step
from flowtune_cli.tui.findings import completeness, findings
from flowtune_cli.tui.formatting import one_line, shortened, sparkline
from flowtune_cli.tui.screen_export import ScreenExport, episode_markdown, fenced, table
from flowtune_cli.tui.step_alignment import align_steps
from flowtune_cli.tui.widgets.metric_plot import _limits, _ticks
from flowtune_cli.tui.word_diff import word_diff


@given(st.text("ab c\n.", max_size=20), st.text("ab c\n.", max_size=20))
def test_the_parts_of_a_difference_make_up_both_texts(one: str, other: str) -> None:
    first, second = word_diff(one, other)
    assert "".join(text for _, text in first) == one
    assert "".join(text for _, text in second) == other
    same = ["".join(t for kind, t in parts if kind == "same") for parts in (first, second)]
    assert "".join(same[0].split()) == "".join(same[1].split())
    assert (one == other) == all(kind == "same" for kind, _ in [*first, *second])


def test_a_difference_is_in_words() -> None:
    first, second = word_diff("Who painted it?", "Who had painted this?")
    assert [text for kind, text in first if kind == "only"] == ["it"]
    assert [text.strip() for kind, text in second if kind == "only"] == ["had", "this"]


def test_words_side_by_side_are_one_difference() -> None:
    first, second = word_diff("In which town?", "Who was born in Vane?")
    assert first == [("only", "In which town"), ("same", "?")]
    assert second == [("only", "Who was born in Vane"), ("same", "?")]


@example([500001.0, 400000001507328.0])
@given(st.lists(st.floats(allow_nan=False, width=32), max_size=5))
def test_every_axis_has_ticks_between_its_ends(values: list[float]) -> None:
    low, high = _limits(values)
    for most in range(2, 6):
        assert 1 <= len(_ticks(low, high, most=most)) <= most + 1
    finite = [value for value in values if math.isfinite(value)]
    assert low <= min(finite, default=low)
    assert high >= max(finite, default=high)
    if finite and min(finite) >= 0 and max(finite) <= 1:
        assert high - low >= 0.2499
        assert low >= -1e-9
        assert high <= 1 + 1e-9


def test_small_texts() -> None:
    assert visible("a\x1b[31mb\n\u202e") == "a\\x1b[31mb\n\\u202e"
    assert one_line(" a\r\nb\n") == "a⏎b"
    assert shortened("answer_em", 6) == "an…_em"
    assert shortened("short", 6) == "short"
    assert sparkline([0.0, None, 1.0, 0.5], 3) == " █▁"
    assert sparkline([2.0, 2.0], 8) == "▁▁"
    assert sparkline([None], 8) == ""
    assert fenced("a ``` b").startswith("````\n")
    assert table(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |\n"


def test_why_there_is_a_preference_or_none(finished: Path) -> None:
    texts: dict[Outcome, set[str]] = {}
    with RunReader(finished / "first" / "store.sqlite") as reader:
        for number in range(36):
            episode = reader.episode(number)
            for rollout in episode.rollouts:
                made = any(
                    (p.step, p.alternative) == (rollout.step, rollout.alternative)
                    for p in episode.preferences
                )
                text = explain_rollout(episode, rollout)
                assert text.startswith("chosen" if made else "none, because")
                texts.setdefault(rollout.outcome, set()).add(text)
            for step in episode.steps:
                assert explain_step(episode, step)
        episode = next(e for e in map(reader.episode, range(36)) if e.preferences)
    better = texts[Outcome.ALTERNATIVE_BETTER]
    assert all("chosen alternative" in text for text in better)
    assert all("chosen the greedy output" in text for text in texts[Outcome.GREEDY_BETTER])
    assert all("no difference: both ended with" in text for text in texts[Outcome.TIE])
    assert (
        "none, because the rollout was not played (high is undefined here)"
        in texts[Outcome.SKIPPED]
    )
    without = replace(episode, preferences=())
    rollout = next(r for r in episode.rollouts if r.gain)
    assert "pairs = best" in explain_rollout(without, rollout)


def test_a_rollout_beside_its_episode(finished: Path) -> None:
    with RunReader(finished / "first" / "store.sqlite") as reader:
        episodes = [reader.episode(number) for number in range(36)]
    seen = set()
    for episode in episodes:
        for rollout in episode.rollouts:
            pairs = align_steps(episode, rollout)
            assert bool(pairs) == bool(rollout.steps)
            if not pairs:
                continue
            assert pairs[0].index == rollout.step
            assert pairs[0].differs
            assert not pairs[0].first
            firsts = [pair for pair in pairs if pair.first]
            assert firsts == [pair for pair in pairs[1:] if pair.differs][:1]
            seen.add(bool(firsts))
    assert seen == {True, False}


NODE = NodeSummary("query", 100, 0, 10, 10, 10, 0, 0, 0, 20, 0, 0.5, 0.4, 0.7)
COUNTS = Counts(9, 100, 0, 0, 0, dict.fromkeys(Outcome, 0), 20, 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"ties": 900}, "98% ties"),
        ({"skipped": 90}, "75% of its rollouts skipped"),
        ({"undefined": 9}, "23% of its rollouts undefined"),
        ({"win_rate": 0.01}, "almost never win"),
        ({"win_rate": 0.7}, "alternatives win 70%"),
        ({"last_update": None}, "never updated"),
        (
            {"last_update": UpdateRecord("query", 0, 1, 9, 9, 0, 0.5, -2.0)},
            "prefers the rejected",
        ),
        ({"truncated": 50, "tokens": 9}, "50 outputs were truncated"),
        (
            {"most_common_output": MostCommonOutput("", 6, 50)},
            "6 of its latest 50 outputs are empty",
        ),
        ({"most_common_output": MostCommonOutput("one\ntwo", 26, 50)}, "are the same: one⏎two"),
        ({"most_common_output": MostCommonOutput("x" * 99, 10, 10)}, f"the same: {'x' * 36}…xxx"),
        ({"most_common_output": MostCommonOutput("", 5, 50)}, ""),
        ({"most_common_output": MostCommonOutput("one", 25, 50)}, ""),
        ({"most_common_output": MostCommonOutput("", 9, 9)}, ""),
        ({}, ""),
    ],
)
def test_findings(change: dict[str, object], expected: str) -> None:
    good = UpdateRecord("query", 0, 1, 9, 9, 0, 0.5, 0.4)
    node = replace(NODE, **{"last_update": good, **change})  # type: ignore[arg-type]
    found = findings(COUNTS, [node])
    assert [text for text in found if expected in text] == found
    assert bool(found) == bool(expected)


def test_findings_about_the_whole_run() -> None:
    found = findings(replace(COUNTS, failed=3, shortened=1, preferences=0), [])
    assert [text.split()[0] for text in found] == ["3", "Nothing", "1"]
    assert completeness(replace(COUNTS, rollouts={**COUNTS.rollouts, Outcome.FAILED: 2})).endswith(
        "2 rollouts: 2 failed."
    )


def test_a_list_is_searched_on_from_where_it_was(finished: Path) -> None:
    store = finished / "first" / "store.sqlite"
    reports: list[QueryResult] = []

    def report(result: QueryResult) -> bool:
        reports.append(result)
        return True

    query = EpisodeQuery(Filter(), Order("steps"), "sum of 3")
    run_query(store, query, None, report)
    assert sorted(reports[-1].numbers) == [3, 30, 31, 32, 33, 34, 35]
    assert reports[-1].searched == reports[-1].total == reports[-1].end == 36
    # Of a search that had seen the first 32, only the others are searched; 3 is taken on trust.
    before = QueryResult(array("q", [3, 7]), 32, 32, 32)
    run_query(store, query, before, report)
    assert sorted(reports[-1].numbers) == [3, 7, 32, 33, 34, 35]
    assert reports[-1].total == 4


def test_a_search_that_nobody_wants_any_more_ends(finished: Path) -> None:
    reports: list[QueryResult] = []

    def report(result: QueryResult) -> bool:
        reports.append(result)
        return False

    run_query(finished / "first" / "store.sqlite", EpisodeQuery(text="sum"), None, report)
    assert len(reports) == 1


def test_an_export_is_whole_or_not_there(tmp_path: Path, finished: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("before")

    def breaks():
        yield 1
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        ScreenExport("x", "x", breaks, lambda: "").write(path)
    assert path.read_text() == "before"
    with pytest.raises(UsageError, match=r"x\.txt must end with \.md or \.jsonl"):
        ScreenExport("x", "x", list, lambda: "").write(tmp_path / "x.txt")
    with pytest.raises(FlowtuneError, match="cannot write"):
        ScreenExport("x", "x", list, lambda: "").write(tmp_path / "no" / "x.md")
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]

    with RunReader(finished / "first" / "store.sqlite") as reader:
        episode = next(e for e in map(reader.episode, range(36)) if e.preferences)
    ScreenExport("x", "x", lambda: [episode], lambda: "").write(path)
    record = json.loads(path.read_text())
    assert record["rollouts"][0]["outcome"] in {outcome.value for outcome in Outcome}
    assert record["steps"][0]["alternatives"]
    markdown = episode_markdown("first", episode)
    assert "## Step 0: draw" in markdown
    assert "### Alternative 1 of step 0" in markdown
    assert "Chosen:" in markdown
