"""The rows of the paper's table, on the tiny model: made in order, stored, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper_table import __main__ as command
from benchmarks.paper_table import rows as table_rows
from benchmarks.paper_table.table import mean_rows, paper, table
from flowtune_cli.cli.main import main
from support.runs_compared import press_ctrl_c

pytest.importorskip("flowtune_musique")

Session = Callable[..., Any]
SMALL = (
    "model.dtype=float32",
    "training.save_every=2",
    "training.batch_size=2",
    "tasks.{task}.max_retrievals=1",
    "tasks.{task}.nodes.query.max_new_tokens=4",
    "tasks.{task}.nodes.verbose.max_new_tokens=4",
    'tasks.{task}.nodes.verbose.exploration={{name="diverse_beam", beams=3}}',
    "tasks.{task}.nodes.concise.max_new_tokens=4",
)


def record(number: int, marker: str = "") -> dict[str, Any]:
    return {
        "id": f"4hop__{number}",
        "question": f"which {number}?",
        "paragraphs": [
            {
                "idx": idx,
                "title": f"T{idx}",
                "paragraph_text": f"fact {idx} of {number}{marker}",
                "is_supporting": idx == 0,
            }
            for idx in range(2)
        ],
        "answer": "fact",
        "answer_aliases": [],
        "answerable": not marker,
    }


@pytest.fixture
def session(tmp_path: Path, roomy_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Session:
    """Runs the benchmark on three pairs of each split, and gives its exit code and output."""
    for split, begin in (("train", 0), ("dev", 10)):
        pairs = [(record(n), record(n, "!")) for n in range(begin, begin + 3)]
        for variant, records in (
            ("ans", [first for first, _ in pairs]),
            ("full", [each for pair in pairs for each in pair]),
        ):
            file = tmp_path / f"musique_{variant}_v1.0_{split}.jsonl"
            file.write_text("".join(json.dumps(each) + "\n" for each in records))

    def call(task: str, out: str, *more: str) -> tuple[int, Any, str]:
        given = [task, "--data", str(tmp_path), "--out", str(tmp_path / out), "--json"]
        for setting in (f"model.name={roomy_model_dir}", *SMALL):
            given += ["--set", setting.format(task=task)]
        code = command.main([*given, *more])
        printed, said = capsys.readouterr()
        return code, json.loads(printed) if printed else None, said

    return call


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("musique-full", ["+ grounded", "+ pairwise"]),
        ("musique-answerable", ["+ grounded"]),
    ],
)
def test_all_rows_are_there_and_stored(
    session: Session, tmp_path: Path, task: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, rows, _ = session(task, "out", "--seeds", "1", "2", "--limit", "2")
    assert code == 0
    assert [row["row"] for row in rows] == [
        "untrained",
        "+ train on train",
        *names,
        "+ train on dev",
    ]
    assert [row.keys() - {"row"} for row in rows] == [
        {"train", "dev"} if row["row"] == "+ train on train" else {"dev"} for row in rows
    ]
    full = task == "musique-full"
    assert all(("answer+sufficiency" in row["dev"]) == full for row in rows)
    assert all(0 <= figure["value"] <= 1 for row in rows for figure in row["dev"].values())
    trained, grounded = rows[1]["dev"], rows[2]["dev"]
    assert grounded["support_f1"] == trained["support_f1"]
    if full:
        assert grounded["sufficiency"] == trained["sufficiency"]
        assert rows[3]["dev"]["answer_f1"] == grounded["answer_f1"]
    lines = (tmp_path / "out" / "seed-1-train.jsonl").read_text().splitlines()
    assert len(lines) == (6 if full else 3)
    assert all("rollouts" in json.loads(line) for line in lines)

    monkeypatch.setattr(table_rows, "set_up", None)  # nothing is played again
    assert session(task, "out", "--seeds", "1", "2", "--limit", "2")[1] == rows
    code, _, said = session(task, "out", "--limit", "3")
    assert code == 2
    assert "say another --out" in said


def test_dev_is_cut_between_pairs(session: Session, tmp_path: Path) -> None:
    session("musique-full", "out", "--seeds", "1", "--limit", "2", "--dev-limit", "3")
    assert len((tmp_path / "out" / "untrained.jsonl").read_text().splitlines()) == 4
    run = json.loads((tmp_path / "out/runs/musique-full-seed-1-dev/run.json").read_text())
    assert (run["state"], run["episodes"]) == ("finished", 4)
    settings = json.loads((tmp_path / "out/runs/musique-full-seed-1-dev/settings.json").read_text())
    assert settings["settings"]["training"]["seed"] == 666


def test_commands_go_on_from_its_runs(session: Session, tmp_path: Path) -> None:
    session("musique-full", "out", "--seeds", "1", "--limit", "2")
    out = tmp_path / "out"
    for run in ("musique-full-seed-1", "musique-full-seed-1-dev"):
        assert main(["train", "--resume", str(out / "runs" / run)]) == 0
    trained = ("--run", str(out / "runs" / "musique-full-seed-1"), "--data", str(tmp_path))
    again = tmp_path / "again.jsonl"
    assert main(["predict", "musique-full", *trained, "--split", "dev", "--out", str(again)]) == 0
    lines, stored = (
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (again, out / "seed-1-train.jsonl")
    )
    assert lines == [{name: line[name] for name in lines[0]} for line in stored]


def test_interrupted_anywhere_it_goes_on_to_the_same_rows(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--seeds", "1", "--limit", "4")
    _, whole, _ = session("musique-full", "whole", *given)
    interruptions = 0
    for calls in (3, 20, 25, 30, 60):
        with monkeypatch.context() as patch:
            press_ctrl_c(patch, calls)
            code, _, said = session("musique-full", "cut", *given)
        interruptions += code == 130
        assert code in (0, 130)
        assert (code == 0) or "the same command goes on" in said
    assert interruptions >= 3
    code, rows, _ = session("musique-full", "cut", *given)
    assert (code, rows) == (0, whole)


def figure(value: float, interval: list[float] | None = None) -> dict[str, Any]:
    return {"value": value, "interval": interval}


def test_means_over_seeds_with_student_s_interval() -> None:
    seeds = [
        [
            {"row": "untrained", "dev": {"answer_f1": figure(0.2, [0.1, 0.3])}},
            {"row": "+ grounded", "dev": {"answer_f1": figure(value, [0, 1])}},
        ]
        for value in (0.4, 0.5, 0.6)
    ]
    untrained, grounded = mean_rows(seeds)
    assert untrained["dev"]["answer_f1"] == {**figure(0.2, [0.1, 0.3]), "seeds": 3}
    # 4.303 * 0.1 / sqrt(3)
    assert grounded["dev"]["answer_f1"] == {**figure(0.5, [0.252, 0.748]), "seeds": 3}
    assert mean_rows(seeds[:1])[1]["dev"]["answer_f1"]["interval"] == [0, 1]


def test_the_paper_s_figures_stand_beside_ours() -> None:
    assert paper("musique-full", "+ pairwise", "dev", "sufficiency") == 0.945
    assert paper("musique-answerable", "untrained", "train", "support_f1") == 0.492
    assert paper("musique-answerable", "untrained", "train", "sufficiency") is None
    rows = [{"row": "+ grounded", "dev": {"answer_f1": figure(0.5, [0.25, 0.75])}}]
    shown = table("musique-full", rows)
    cells = [list(column.cells) for column in shown.columns]
    assert [column[0] for column in cells] == [
        "+ grounded",
        "answer_f1",
        "",
        "",
        "0.604",
        "0.500 (0.250 to 0.750)",
    ]
