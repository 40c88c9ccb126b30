"""The figures of a report are those of the store, whatever state the run is in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.report.summary import as_json, summarize_run
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from report.stored_runs import sums_run
from support.evaluated_runs import evaluated_run


def test_they_are_those_of_the_store(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    figures = summarize_run(run)
    with RunReader(run.store_path) as reader:
        assert figures.counts == reader.counts()
        assert figures.nodes == reader.node_summary()
        assert figures.metrics == reader.metrics()
        assert figures.updates == reader.updates()
    assert figures.references == [
        (6, {"draw": True}),
        (12, {"draw": False}),
        (18, {"draw": True}),
        (24, {"draw": False}),
    ]
    assert [len(sample) for sample in figures.sample.values()] == [4]


def test_json_is_json_and_complete(tmp_path: Path) -> None:
    figures = json.loads(json.dumps(as_json(summarize_run(sums_run(tmp_path)))))
    assert figures["counts"]["episodes"] == 24
    assert [point["episodes"] for point in figures["metrics"]["high"]["series"]] == [
        3 * batch for batch in range(1, 9)
    ]
    [draw] = [node for node in figures["nodes"] if node["node"] == "draw"]
    assert draw["series"][1]["loss"] == 0.5
    assert draw["ties"] > 0
    assert draw["reference_drift"] is None


def test_tags_and_the_note_of_a_run(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    before = as_json(summarize_run(run))
    assert (before["tags"], before["note"]) == ([], "")
    run.change_info(lambda info: {"tags": ["paper"], "note": "the one of Friday"})
    after = as_json(summarize_run(run))
    assert (after["tags"], after["note"]) == (["paper"], "the one of Friday")


def test_few_points_of_a_long_run(tmp_path: Path) -> None:
    run = sums_run(tmp_path, batches=20)
    points = summarize_run(run, points=5).metrics["high"]
    assert 3 <= len(points) <= 8
    assert points[-1].episodes == 60


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "new", task="sums", model="m", settings={"settings": {}})
    figures = summarize_run(run)
    assert figures.counts is None
    assert figures.info.state == "interrupted"
    run.store_path.touch()
    assert summarize_run(run).counts is None
    assert as_json(figures)["metrics"] == {}


def test_a_copy_without_settings_says_so(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    (run.path / "settings.json").write_text("{ torn")
    figures = summarize_run(run)
    assert "settings.json is not JSON" in figures.problem
    assert figures.episodes == 24


def test_a_store_that_is_none_is_an_error(tmp_path: Path) -> None:
    run = sums_run(tmp_path)
    run.store_path.write_bytes(b"no database at all" * 100)
    for beside in run.path.glob("store.sqlite-*"):
        beside.unlink()
    with pytest.raises((FlowtuneError, UsageError), match=r"store\.sqlite"):
        summarize_run(run)


def test_a_copy_that_nobody_may_write(tmp_path: Path) -> None:
    run = sums_run(tmp_path / "a")
    copied = shutil.copytree(run.path, tmp_path / "copy")
    for path in [*copied.iterdir(), copied]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert summarize_run(RunDirectory(copied)).episodes == 24
    finally:
        copied.chmod(0o755)


def test_evaluations_are_in_the_json(tmp_path: Path) -> None:
    figures = json.loads(json.dumps(as_json(summarize_run(evaluated_run(tmp_path)))))
    found = figures["evaluations"]
    assert [(each["episodes"], each["best"]) for each in found] == [
        (0, False),
        (3, True),
        (6, False),
        (9, False),
    ]
    assert found[1]["figures"]["high"] == {"value": 0.75, "defined": 9}
