"""``flowtune eval``: runs on the same examples, and which is better."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli.player import Player
from support.installed_plugins import Site
from support.judged_task import JUDGED

Run = Callable[..., Any]


@pytest.fixture
def trained(letters: Site, run: Run) -> Run:
    """Runs "a" and "b" of the task "letters"."""
    for name, seed in (("a", "1"), ("b", "2")):
        evaluate = "--set=training.evaluate.every=4"
        done = run("train", "letters", "--name", name, "--seed", seed, evaluate, "--limit=4")
        assert done.code == 0, done.err
    return run


def figures(run: Run, *arguments: str) -> Any:
    done = run("eval", "letters", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_runs_and_the_untrained_flow_are_played_on_the_same_examples(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    set_up = Player.set_up
    monkeypatch.setattr(Player, "set_up", lambda self, peers: loaded.append(self) or set_up(self))
    found = figures(trained, "--run", "a", "--run", "b@best", "--baseline", "--out", "out")
    assert (found["split"], found["examples"]) == ("test", 5)
    assert [flow["flow"] for flow in found["flows"]] == ["untrained", "a", "b@best"]
    assert len(loaded) == 1  # base models and adapters agree
    untrained, a, _ = found["flows"]
    assert untrained["figures"]["sum"]["difference"] is None
    assert a["figures"]["sum"]["defined"] == 4
    low, high = a["figures"]["sum"]["interval"]
    assert low <= a["figures"]["sum"]["value"] <= high
    wins = a["figures"]["sum"]["wins"]
    assert (wins["better"] + wins["worse"] + wins["ties"], wins["unknown"]) == (4, 1)
    assert a["task_figures"]["count"] == {"value": 5, "interval": None}
    # Each as if it were played alone, by predict and by a session of its own.
    names = {path.name for path in Path("out").iterdir()}
    best = next(name for name in names if name.startswith("b@"))
    assert names == {"untrained.jsonl", "a@4.jsonl", best}
    for file, more in (("a@4.jsonl", ["--run=a"]), (best, [f"--run={best[:-6]}"])):
        trained("predict", "letters", *more, "--split=test", "--out=alone.jsonl", "--overwrite")
        assert Path("alone.jsonl").read_bytes() == Path("out", file).read_bytes()
    alone = figures(trained, "--run", "b@best")["flows"][0]
    assert alone["figures"]["sum"]["value"] == found["flows"][2]["figures"]["sum"]["value"]


def test_as_a_table(trained: Run) -> None:
    done = trained("eval", "letters", "--run", "a", "--run", "b", "--limit=3")
    assert done.code == 0, done.err
    assert [row[:2] for row in done.rows] == [
        [figure, flow] for figure in ("sum", "good", "count") for flow in ("a", "b")
    ]
    first, other = done.rows[:2]
    assert first[4:] == ["", "", "", "3 of 3"]
    assert other[4].startswith(("+", "-"))
    assert " to " in other[3]
    assert other[6].endswith(" of 3")
    assert done.rows[4][2] == "3"


def test_examples_that_a_run_has_learned_from_are_told(trained: Run) -> None:
    done = trained("eval", "letters", "--run", "a", "--split", "train")
    assert "warning: 'a' was trained on 4 of the 8 examples" in done.err
    assert "was trained on" not in trained("eval", "letters", "--run", "a").err


def test_examples_that_fail_are_counted_and_in_no_figure(trained: Run) -> None:
    found = figures(
        trained, "--run=a", "--baseline", "--set=tasks.letters.fail_at=test-1", "--out=out"
    )
    for flow in found["flows"]:
        assert flow["failed"] == 1
        assert flow["figures"]["sum"]["defined"] == 3
        assert flow["task_figures"]["count"]["value"] == 4
    assert len(Path("out/a@4.jsonl").read_text().splitlines()) == 4
    done = trained("eval", "letters", "--run=a", "--set=tasks.letters.fail_at=test-1")
    assert "'a' failed for 1 of 5 examples, which no figure counts. The first one" in done.err


def test_another_model_is_loaded_for_a_run_that_has_one(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = "--set=adapter.rank=1"
    assert trained("train", "letters", "--name", "c", rank, "--limit=4").code == 0
    loaded: list[Any] = []
    set_up = Player.set_up
    monkeypatch.setattr(Player, "set_up", lambda self, peers: loaded.append(self) or set_up(self))
    found = figures(trained, "--run=a", "--run=c")
    assert len(loaded) == 2
    assert [flow["flow"] for flow in found["flows"]] == ["a", "c"]


def test_examples_without_labels_are_played_and_written(trained: Run) -> None:
    Path("new.jsonl").write_text('{"id": "n", "question": "why"}\n')
    found = figures(trained, "--run=a", "--data=new.jsonl", "--out=out")
    [flow] = found["flows"]
    assert flow["figures"]["sum"]["value"] is None
    assert flow["task_figures"] == {}  # the task's evaluation wants labels
    assert json.loads(Path("out/a@4.jsonl").read_text())["id"] == "n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which runs to play, by --run, or the untrained flow, --baseline"),
        (["--run=a", "--run=a@4"], "'a@4' and 'a' are the same checkpoint"),
        (["--run=z"], "unknown run 'z'"),
        (["--run=a@7"], "has no checkpoint '7'"),
        (["--run=a", "--split=dev"], "unknown split of task 'letters' 'dev'"),
        (["--run=a", "--out=full"], "full exists: choose another name, or use --overwrite"),
    ],
)
def test_what_cannot_be_compared(trained: Run, arguments: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    done = trained("eval", "letters", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "loading" not in done.err


@pytest.fixture
def unrewarded(letters: Site, run: Run) -> Run:
    """The task "letters" without rewards; its nodes have the evaluator "longer"."""
    letters.install("judged", JUDGED)
    done = run("train", "judged", "--name", "a", "--limit=4")
    assert done.code == 0, done.err
    return run


def test_without_rewards_the_evaluator_says_who_wins(unrewarded: Run) -> None:
    done = unrewarded("eval", "judged", "--run=a", "--baseline", "--json", "--out=out")
    assert done.code == 0, done.err
    untrained, a = json.loads(done.out)["flows"]
    assert untrained["judged"] == {}
    wins = a["judged"]["longer"]

    def lengths(name: str) -> list[int]:
        lines = Path("out", name).read_text().splitlines()
        return [len(json.loads(line)["text"]) for line in lines]

    gains = [b - a for a, b in zip(lengths("untrained.jsonl"), lengths("a@4.jsonl"), strict=True)]
    assert wins == {
        "better": sum(gain > 0 for gain in gains),
        "worse": sum(gain < 0 for gain in gains),
        "ties": sum(gain == 0 for gain in gains),
        "unknown": 0,
    }
    table = unrewarded("eval", "judged", "--run=a", "--baseline")
    assert ["longer", "a", "", "", "", ""] in [row[:6] for row in table.rows]
    alone = unrewarded("eval", "judged", "--run=a", "--limit=1")
    assert "no evaluator was asked, as these compare flows: name another one" in alone.err


def test_an_evaluator_that_looks_at_steps_is_told_that_there_are_none(unrewarded: Run) -> None:
    look = [
        f"--set=tasks.judged.nodes.{n}.evaluator={{name='longer',look=true}}"
        for n in ("draft", "write")
    ]
    done = unrewarded("eval", "judged", "--run=a", "--baseline", *look)
    assert done.code == 2
    assert "looks at an episode's steps, which are not kept where whole flows" in done.err
