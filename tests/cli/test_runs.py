"""``flowtune runs`` and ``flowtune ls runs``: runs are sorted, tagged, renamed and removed."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.directory import RunDirectory, list_runs
from flowtune_cli.runs.store import Store
from support.installed_plugins import Site

Run = Callable[..., Any]
COLUMNS = ["name", "task", "state", "episodes", "metric", "size", "age", "tags"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunDirectory]:
    """A run that is finished, so many days old, with so many bytes in a checkpoint."""

    def make(name: str, episodes: int = 0, days: float = 0, size: int = 0) -> RunDirectory:
        made = RunDirectory.create(
            tmp_path / "runs", name, task="hop-qa", model="m", settings={"settings": {}}
        )
        made.update(state="finished", episodes=episodes)
        created = datetime.now(timezone.utc) - timedelta(days=days)
        made.change_info(lambda info: {"created": created.isoformat(timespec="seconds")})
        (made.checkpoints / "adapter").write_bytes(bytes(size))
        return made

    return make


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_header_and_what_each_run_is(run: Run, make: Any, tmp_path: Path) -> None:
    make("first", 7, days=2.5, size=3_000_000)
    done = run("ls", "runs")
    header, row = (line.split("\t") for line in done.out.splitlines())
    assert header == COLUMNS
    assert row == ["first", "hop-qa", "finished", "7", "", "3 MB", "2 days", ""]
    [as_json] = json.loads(run("ls", "runs", "--json").out)
    assert as_json["size"] > 3_000_000
    assert datetime.fromisoformat(as_json["created"]).tzinfo is not None
    assert (as_json["metric"], as_json["tags"], as_json["note"]) == (None, [], "")
    assert as_json["path"] == str(tmp_path / "runs/first")


def test_the_metric_is_the_best_evaluation_s_or_else_the_gate_s(letters: Site, run: Run) -> None:
    few = ("--limit", "4", "--set", "training.batch_size=2")
    assert run("train", "letters", *few, "--name", "plain").code == 0
    watched = ("--set", "training.evaluate.every=4", "--set", "training.evaluate.metric=good")
    done = run("train", "letters", *few, "--name", "watched", *watched, "--json")
    assert done.code == 0
    best = next(e for e in json.loads(done.out)["evaluations"] if e["best"])
    value = best["figures"][best["metric"]]["value"]
    shown = {row[0]: row[4] for row in run("ls", "runs").rows}
    assert shown["watched"] == f"{best['metric']}={value:.3f} held out"
    assert shown["plain"].startswith("sum=0.")
    metrics = {r["name"]: r["metric"] for r in json.loads(run("ls", "runs", "--json").out)}
    found = {"name": best["metric"], "value": value, "of": "evaluation", "lower_is_better": False}
    assert metrics["watched"] == found
    assert (metrics["plain"]["name"], metrics["plain"]["of"]) == ("sum", "training")
    by_metric = [row[0] for row in run("ls", "runs", "--sort", "metric").rows]
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert by_metric == sorted(values, key=lambda name: -values[name])


def test_a_store_that_cannot_be_read_is_no_reason_not_to_list_it(run: Run, make: Any) -> None:
    first = make("first")
    first.store_path.write_bytes(b"no database at all, but a text that is long enough for one")
    done = run("ls", "runs", "-v")
    assert (done.code, done.rows[0][4]) == (0, "")
    assert "run 'first' has no metric here" in done.err


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ([], ["b", "a", "c"]),
        (["--sort", "name"], ["a", "b", "c"]),
        (["--sort", "age"], ["c", "a", "b"]),
        (["--sort", "size"], ["a", "c", "b"]),
        (["--sort", "episodes"], ["b", "c", "a"]),
        (["--sort", "metric"], ["b", "a", "c"]),
    ],
)
def test_orders(run: Run, make: Any, sort: list[str], names: list[str]) -> None:
    make("b", 30, days=9, size=10)
    make("a", 10, days=5, size=9000)
    make("c", 20, days=1, size=800)
    assert [row[0] for row in run("ls", "runs", *sort).rows] == names
    assert [row["name"] for row in json.loads(run("ls", "runs", *sort, "--json").out)] == names


def test_what_is_not_an_order_or_not_for_runs(run: Run) -> None:
    assert (
        "unknown order of runs 'ages'. Did you mean 'age'?"
        in run("ls", "runs", "--sort", "ages").err
    )
    assert "--sort and --tag are for runs" in run("ls", "tasks", "--sort", "name").err


def test_tags_and_a_note(run: Run, make: Any, tmp_path: Path) -> None:
    first, _ = make("first"), make("second")
    assert run("runs", "tag", "first", "paper", "good").code == 0
    assert run("runs", "tag", "first", "paper").err == (
        "flowtune: note: tags of 'first': good, paper\n"
    )
    assert run("runs", "note", "first", "the  one\nof Friday").code == 0
    assert [row[0] for row in run("ls", "runs", "--tag", "paper").rows] == ["first"]
    assert run("ls", "runs").rows[0][-1] == "good, paper"
    [shown] = json.loads(run("ls", "runs", "--tag", "good", "--json").out)
    assert (shown["tags"], shown["note"]) == (["good", "paper"], "the one of Friday")
    first.update(state="stopped", episodes=3)  # as training does
    assert first.info.tags == ("good", "paper")
    assert run("runs", "tag", "first", "paper", "--remove").code == 0
    assert run("runs", "note", "first", "").code == 0
    assert (first.info.tags, first.info.note) == (("good",), "")
    wrong = run("runs", "tag", "first", "paper", "--remove")
    assert wrong.code == 2
    assert "run 'first' has no tag 'paper'; its tags are: good" in wrong.err
    assert run("runs", "tag", "first", "a b").code == 2
    missing = run("runs", "note", "frist", "x")
    assert missing.code == 2
    assert f"Runs are in {tmp_path / 'runs'}." in missing.err


def test_a_run_of_before_there_were_tags(run: Run, make: Any) -> None:
    first = make("first")
    info = json.loads((first.path / "run.json").read_text())
    assert not info.keys() & {"tags", "note"}
    assert run("ls", "runs").rows[0][-1] == ""
    assert run("runs", "tag", "first", "old").code == 0


def test_tags_are_not_lost_while_the_run_trains(make: Any) -> None:
    first = make("first")

    def train() -> None:
        for episodes in range(200):
            RunDirectory(first.path).update(episodes=episodes)

    training = threading.Thread(target=train)
    training.start()
    for number in range(50):
        first.change_info(
            lambda info, number=number: {"tags": [*info.get("tags", ()), str(number)]}
        )
    training.join()
    assert first.info.tags == tuple(map(str, range(50)))
    assert first.info.episodes == 199


def test_renamed_it_is_gone_on_with_under_its_new_name(
    letters: Site, run: Run, tmp_path: Path
) -> None:
    assert run("train", "letters", "--limit", "2", "--name", "a").code == 0
    assert run("train", "letters", "--limit", "2", "--name", "b").code == 0
    done = run("runs", "mv", "a", "best-one")
    assert done.err == (
        f"flowtune: note: run 'a' is now 'best-one', in {tmp_path / 'runs/best-one'}\n"
    )
    stored = json.loads((tmp_path / "runs/best-one/run.json").read_text())
    resume = f"flowtune train --resume {tmp_path / 'runs/best-one'}"
    assert (stored["name"], stored["resume"]) == ("best-one", resume)
    assert run("play", "--run", "best-one", "--json").code == 0
    again = run("train", "--resume", "best-one", "--set", "training.limit=3")
    assert again.code == 0
    assert run("play", "--run", "a").code == 2
    for name, said in (("b", "'b' already exists"), ("../x", "cannot be the name of a run")):
        refused = run("runs", "mv", "best-one", name)
        assert refused.code == 2
        assert said in refused.err
    shutil.move(tmp_path / "runs/b", tmp_path / "runs/by-hand")
    assert RunDirectory(tmp_path / "runs/by-hand").info.resume.endswith("runs/by-hand")


def test_removed(run: Run, make: Any, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make(name, size=2_000_000)
    torn = tmp_path / "runs/torn"
    torn.mkdir()
    (torn / "run.json").write_text("{")
    done = run("runs", "rm", "a", "torn", "b", str(tmp_path / "runs/b"), "--yes")
    assert done.code == 0
    assert "removed run 'a' (2 MB)" in done.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["c"]


def test_a_run_that_trains_is_left_alone_and_so_are_the_others(
    run: Run, make: Any, tmp_path: Path
) -> None:
    first, other = make("first"), make("other")
    with first.lock():
        for command in (("rm", "other", "first", "--yes"), ("mv", "first", "second")):
            done = run("runs", *command)
            assert done.code == 2
            assert f"run 'first' ({first.path}) is in use by process {os.getpid()}" in done.err
        assert run("runs", "tag", "first", "now").code == 0
    assert first.path.is_dir()
    assert other.path.is_dir()
    assert run("runs", "rm", "first", "nothing", "--yes").code == 2
    assert first.path.is_dir()


def test_it_is_asked_first(
    run: Run, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make("first", size=5000)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = run("runs", "rm", "first")
    assert done.code == 2
    assert "say --yes" in done.err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    done = run("runs", "rm", "first")
    assert (done.code, done.out) == (2, "")
    assert f"{first.path} (" in done.err
    assert "nothing was removed" in done.err
    assert first.path.is_dir()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run("runs", "rm", "first").code == 0
    assert list_runs(tmp_path / "runs") == []


def test_a_link_is_not_followed(run: Run, make: Any, tmp_path: Path) -> None:
    first = make("first")
    (tmp_path / "runs/link").symlink_to(first.path)
    done = run("runs", "rm", "link", "--yes")
    assert done.code == 2
    assert f"is a link to {first.path}" in done.err
    assert first.path.is_dir()


def test_what_cannot_be_removed_is_no_run_any_more(
    run: Run, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("first")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    done = run("runs", "rm", "first", "--yes")
    assert done.code == 1
    assert "is no run any more, but what it had is still in" in done.err
    assert list_runs(tmp_path / "runs") == []


def test_an_empty_store_has_no_headline(make: Any, run: Run) -> None:
    first = make("first")
    with Store(first.store_path, lambda example: ""):
        pass
    assert run("ls", "runs").rows[0][4] == ""
