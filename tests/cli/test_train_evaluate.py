"""``flowtune train`` with held-out examples: figures, the best checkpoint, patience."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowtune_cli
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site
from support.runs_compared import learned, rows

Run = Callable[..., Any]
EVERY_4 = "--set=training.evaluate.every=4"


@pytest.fixture
def train(letters: Site, run: Run) -> Run:
    return lambda *arguments: run(
        "train", *(() if "--resume" in arguments else ["letters"]), *arguments
    )


def evaluations(name: str = "a") -> list[Any]:
    with RunReader(Path("runs", name, "store.sqlite")) as reader:
        return reader.evaluations()


def write_data(path: str, count: int, first: int = 0) -> None:
    lines = [
        json.dumps({"id": str(n), "question": f"q{n}", "gold": n})
        for n in range(first, first + count)
    ]
    Path(path).write_text("\n".join(lines) + "\n")


def test_figures_are_shown_stored_and_printed(train: Run) -> None:
    done = train("--name", "a", EVERY_4, "--json")
    assert done.code == 0, done.err
    found = evaluations()
    assert [(e.episodes, e.examples) for e in found] == [(0, 5), (4, 5), (8, 5)]
    assert list(found[0].figures) == ["sum", "good", "count"]  # the reward, then the task's own
    lines = [line for line in done.err.splitlines() if "held out: " in line]
    assert [line.partition(" ")[0] for line in lines] == ["0/8", "4/8", "8/8"]
    assert re.match(r"0/8 episodes; held out: sum 0\.\d{3}, good \d.*the best sum so far", lines[0])
    printed = json.loads(done.out)["evaluations"]
    assert [e["episodes"] for e in printed] == [0, 4, 8]
    assert [e["best"] for e in printed].count(True) == 1
    assert printed[0]["figures"]["sum"] == {"value": found[0].value, "defined": 4}
    assert re.search(r"the best of 3 evaluations is sum 0\.\d+, .*: a@best\n", done.err)
    stored = RunDirectory(Path("runs/a")).settings["data"]["held_out"]
    assert (stored["path"], stored["split"], stored["examples"]) == (None, "test", 5)
    assert train("--name", "b").code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/b"))
    without = [row for row in rows(Path("runs/a")) if "evaluation" not in row]
    assert without == [row for row in rows(Path("runs/b")) if "evaluation" not in row]


def test_the_best_checkpoint_is_named_wherever_a_run_is(train: Run, run: Run) -> None:
    assert train("--name", "a", EVERY_4, "--set=training.keep_checkpoints=1").code == 0
    found = evaluations()
    best = max(found, key=lambda e: (e.value, -e.episodes))
    kept = [int(path.name) for path in Path("runs/a/checkpoints").iterdir()]
    assert set(kept) == {best.episodes, 8}
    played = json.loads(run("play", "letters", "--run", "a@best", "--json").out)
    assert f"checkpoint {best.episodes:07d}" in played["played_by"]
    assert run("predict", "letters", "--run", "a@best", "--split=test", "--out=p.jsonl").code == 0
    assert run("export", "a@best", "--adapters", "out").code == 0
    assert train("--name", "b", "--from", "a@best", "--limit=2").code == 0
    stored = RunDirectory(Path("runs/b")).settings
    assert stored["from"].endswith(f"/{best.episodes:07d}")
    with flowtune_cli.load("runs/a", checkpoint="best") as flow:
        assert flow.run(question="why")["text"]


def test_a_best_checkpoint_that_somebody_has_deleted(train: Run, run: Run) -> None:
    # 'count' is the same each time, so the first is the best.
    assert train("--name", "a", EVERY_4, "--set=training.evaluate.metric=count").code == 0
    shutil.rmtree("runs/a/checkpoints/0000000")
    done = run("play", "letters", "--run", "a@best")
    assert done.code == 2
    assert "the best checkpoint of run 'a', that after 0 episodes, is no longer in" in done.err


def test_best_of_a_run_that_has_none(train: Run, run: Run) -> None:
    assert train("--name", "a", "--limit=2").code == 0
    done = run("play", "letters", "--run", "a@best")
    assert done.code == 2
    assert "run 'a' has no evaluation on held-out examples" in done.err
    assert "train with training.evaluate.every" in done.err
    with pytest.raises(UsageError, match="none of its checkpoints is the best"):
        flowtune_cli.load("runs/a", checkpoint="best")
    assert (
        "'last', and 'best' if some were evaluated" in run("play", "letters", "--run", "a@bst").err
    )


def test_patience_ends_training_and_resume_says_so(train: Run) -> None:
    # 'count' is the same each time.
    settings = (EVERY_4, "--set=training.evaluate.metric=count", "--set=training.passes=3")
    done = train("--name", "a", *settings, "--set=training.evaluate.patience=2")
    assert done.code == 0, done.err
    why = (
        "ended early: count was 5.000 after 0 episodes, and no better in the 2 evaluations since"
        " (training.evaluate.patience)"
    )
    assert why in done.err
    info = RunDirectory(Path("runs/a")).info
    assert (info.state, info.episodes) == ("finished", 8)
    again = train("--resume", "a")
    assert again.code == 0
    assert "nothing left to train" in again.err
    assert why in again.err
    more = train("--resume", "a", "--set=training.evaluate.patience=3")
    assert (more.code, RunDirectory(Path("runs/a")).info.episodes) == (0, 12)
    # As if it had had that patience from the start.
    train("--name", "b", *settings, "--set=training.evaluate.patience=3")
    assert learned(Path("runs/a")) == learned(Path("runs/b"))
    assert rows(Path("runs/a")) == rows(Path("runs/b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["split=dev"], "training.evaluate.split: unknown split of task 'letters' 'dev'"),
        (["split=train"], "8 of the 8 examples to evaluate on, split 'train' of the default data"),
        (["data=none.jsonl"], "none.jsonl"),
        (["data=unlabelled.jsonl"], "example 'u' of split 'train' of"),
    ],
)
def test_what_cannot_be_evaluated_on_is_said_before_the_model_is_loaded(
    train: Run, settings: list[str], message: str
) -> None:
    Path("unlabelled.jsonl").write_text('{"id": "u", "question": "why"}\n')
    done = train("--name", "a", EVERY_4, *(f"--set=training.evaluate.{each}" for each in settings))
    assert done.code in (1, 2)
    assert message in done.err
    assert "loading" not in done.err
    assert not Path("runs/a").exists()


def test_a_file_of_its_own_to_evaluate_on(train: Run) -> None:
    write_data("train.jsonl", 4)
    write_data("dev.jsonl", 3, first=10)
    same = train("--data=train.jsonl", "--name=a", EVERY_4)
    assert same.code == 2
    assert "4 of the 4 examples to evaluate on" in same.err
    settings = [EVERY_4, "--set=training.evaluate.data=dev.jsonl"]
    done = train("--data=train.jsonl", "--name=a", *settings, "--set=training.evaluate.limit=2")
    assert done.code == 0, done.err
    assert [(e.episodes, e.examples) for e in evaluations()] == [(0, 2), (4, 2)]
    stored = RunDirectory(Path("runs/a")).settings["data"]["held_out"]
    assert stored["path"] == str(Path("dev.jsonl").absolute())


def test_held_out_examples_that_change_are_noticed(train: Run) -> None:
    write_data("train.jsonl", 8)
    write_data("dev.jsonl", 3, first=10)
    settings = [EVERY_4, "--set=training.evaluate.data=dev.jsonl", "--limit=4"]
    assert train("--data=train.jsonl", "--name=a", *settings).code == 0
    write_data("dev.jsonl", 4, first=10)
    changed = train("--resume", "a", "--limit=8")
    assert changed.code == 2
    assert "the held-out examples have changed since run 'a' began" in changed.err
    assert "there were 3, and now there are 4" in changed.err
    write_data("moved.jsonl", 3, first=10)
    moved = "--set=training.evaluate.data=moved.jsonl"
    assert train("--resume", "a", "--limit=8", moved).code == 0
    assert [e.episodes for e in evaluations()] == [0, 4, 8]
