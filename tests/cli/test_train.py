"""``flowtune train``: a run from its beginning to its end, and all that may come between."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.learning import datum_losses, learner
from flowtune_cli.models import chat_template
from flowtune_cli.models import loading as models
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site
from support.runs_compared import learned, press_ctrl_c, rows

Run = Callable[..., Any]


@pytest.fixture
def train(letters: Site, run: Run) -> Run:
    """``train("--name", "a")``, of the task letters unless ``--resume`` says what."""

    def call(*arguments: str) -> Any:
        return run("train", *([] if "--resume" in arguments else ["letters"]), *arguments)

    return call


def state(name: str) -> str:
    return RunDirectory(Path("runs", name)).info.state


def settings_of(name: str) -> Any:
    return json.loads(Path("runs", name, "settings.json").read_text())


def test_a_run_from_beginning_to_end(train: Run, tiny_model_dir: Path) -> None:
    done = train("--seed", "7")
    assert done.code == 0
    [[reward, average, defined, undefined]] = done.rows
    assert (reward, defined, undefined) == ("sum", "7", "1")
    assert 0 <= float(average) <= 1

    directory = Path("runs/letters-001")
    assert {file.name for file in directory.iterdir()} >= {
        "run.json",
        "settings.json",
        "store.sqlite",
        "checkpoints",
        "lock",
    }
    assert [c.name for c in sorted((directory / "checkpoints").iterdir())] == ["0000004", "0000008"]
    about = json.loads((directory / "run.json").read_text())
    assert (about["state"], about["episodes"], about["task"]) == ("finished", 8, "letters")
    assert about["model"] == str(tiny_model_dir)

    stored = settings_of("letters-001")
    assert stored["settings"]["training"]["seed"] == 7
    assert stored["settings"]["tasks"]["letters"]["nodes"]["write"]["max_new_tokens"] == 4
    origins = stored["origins"]
    assert origins["training.seed"] == {"layer": "command line", "text": "--seed"}
    assert origins["training.save_every"] == {"layer": "task", "text": "task letters"}
    assert (stored["data"]["path"], stored["data"]["split"]) == (None, "train")
    assert stored["from"] is None

    lines = [line for line in done.err.splitlines() if re.match(r"\d+/8 episodes; sum ", line)]
    assert len(lines) == 4, "one a mini-batch"
    assert f"training run 'letters-001' in {directory.absolute()}\n" in done.err
    assert "8 of 8 episodes had a truncated output" in done.err
    assert "flowtune play letters --run letters-001 --deviate\n" in done.err
    predict = "flowtune predict letters --run letters-001 --split test --out letters-001-test.jsonl"
    assert predict in done.err


def test_the_figures_as_json_are_those_of_the_store(train: Run) -> None:
    done = train("--limit", "3", "--json", "--name", "a")
    figures = json.loads(done.out)
    assert (figures["run"], figures["counts"]["episodes"]) == ("a", 3)
    with RunReader(Path("runs/a/store.sqlite")) as reader:
        assert figures["metrics"]["sum"]["overall"] == reader.metrics()["sum"][-1].metric.overall
        assert figures["counts"]["preferences"] == reader.counts().preferences > 0
        tried = [(len(e.rewards), e.question[:6]) for e in reader.summaries(reader.numbers())]
    assert tried == [(1, "train ")] * 3


def test_learning_changes_each_node(train: Run) -> None:
    train("--limit", "4", "--name", "a")
    adapters = Path("runs/a/checkpoints/0000004/adapters")
    for node in ("draft", "check", "write"):
        weights = load_file(adapters / node / "adapter_model.safetensors")
        assert any(bool(w.any()) for name, w in weights.items() if "lora_B" in name), node


@pytest.mark.parametrize(
    ("call", "number"), [(1, signal.SIGINT), (9, signal.SIGTERM), (17, signal.SIGINT)]
)
@pytest.mark.slow
def test_stopped_and_resumed_is_as_if_never_stopped(
    train: Run, monkeypatch: pytest.MonkeyPatch, call: int, number: int
) -> None:
    assert train("--name", "whole").code == 0
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, call, number=number)
        stopped = train("--name", "parted")
    assert stopped.code == 130
    assert stopped.out == ""
    assert stopped.err.endswith("Resume with:\n  flowtune train --resume parted\n")
    assert state("parted") == "stopped"
    assert train("--resume", "parted").code == 0
    assert state("parted") == "finished"
    assert learned(Path("runs/parted")) == learned(Path("runs/whole"))
    assert rows(Path("runs/parted")) == rows(Path("runs/whole"))


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train("--name", "whole")
    about = Path("runs/cut/run.json")
    update = learner.Learner.update

    def interrupted(self: Any, *given: Any) -> Any:
        # While the last batch learns: the one before it is stored, and in no checkpoint.
        if about.exists() and json.loads(about.read_text())["episodes"] == 6:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return update(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "update", interrupted)
        done = train("--name", "cut")
    assert done.code == 130
    assert "newest checkpoint is after 4 episodes" in done.err
    assert "flowtune train --resume cut\n" in done.err
    assert state("cut") == "interrupted"
    assert train("--resume", "cut").code == 0
    assert learned(Path("runs/cut")) == learned(Path("runs/whole"))
    assert rows(Path("runs/cut")) == rows(Path("runs/whole"))


def test_the_whole_run_is_told_where_it_cannot_be_found_by_name(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_ctrl_c(monkeypatch, 1)
    done = train("--set", "run.directory=other place", "--name", "a")
    assert done.err.endswith(f"flowtune train --resume '{Path.cwd()}/other place/a'\n")
    assert train("--resume", "other place/a", "--set", "training.keep_checkpoints=1").code == 0


def test_a_run_in_use_is_left_alone(train: Run) -> None:
    train("--limit", "2", "--name", "a")
    with RunDirectory(Path("runs/a")).lock():
        done = train("--resume", "a")
    assert done.code == 2
    assert f"run 'a' ({Path('runs/a').absolute()}) is in use by process {os.getpid()}" in done.err


def test_resume_with_other_settings_says_which(train: Run) -> None:
    train("--limit", "2", "--name", "a")
    changes = ["learning.beta=0.5", "tasks.letters.nodes.write.prompt.user=Say {draft} {good}"]
    done = train("--resume", "a", "--seed", "1", *(f"--set={change}" for change in changes))
    assert done.code == 2
    assert "learning.beta = 1.0 in the run, and 0.5 now (--set)" in done.err
    assert "training.seed = 42 in the run, and 1 now (--seed)" in done.err
    assert 'nodes.write.prompt.user = "Write {draft} {good}" in the run, and "Say' in done.err
    assert "by --from a" in done.err
    assert train("--resume", "a", "--limit", "1").code == 2


def test_resuming_a_finished_run_says_so(train: Run) -> None:
    first = train("--limit", "2", "--name", "a")
    before = learned(Path("runs/a"))
    done = train("--resume", "a")
    assert (done.code, done.out) == (0, first.out)
    assert "run 'a' is finished: there is nothing left to train" in done.err
    assert learned(Path("runs/a")) == before


@pytest.mark.slow
def test_a_run_can_get_more_examples(train: Run) -> None:
    train("--name", "whole")
    train("--limit", "4", "--name", "a")
    assert train("--resume", "a", "--limit", "0").code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    assert rows(Path("runs/a")) == rows(Path("runs/whole"))
    assert settings_of("a")["data"] == settings_of("whole")["data"]
    assert settings_of("a")["settings"]["training"]["limit"] == 0
    assert "nothing left to train" in train("--resume", "a").err


@pytest.mark.slow
def test_a_run_goes_on_with_the_dtype_that_it_began_with(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWTUNE_MODEL__DTYPE", "auto")
    monkeypatch.setattr(models, "faster_dtype", lambda device: torch.bfloat16)
    train("--name", "whole")
    train("--limit", "4", "--name", "a")
    assert settings_of("a")["settings"]["model"]["dtype"] == "bfloat16"
    monkeypatch.setattr(models, "faster_dtype", lambda device: torch.float32)
    assert train("--resume", "a", "--limit", "0").code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    train("--name", "other")
    assert learned(Path("runs/other")) != learned(Path("runs/whole"))


def test_a_run_goes_on_with_the_day_that_it_began(
    train: Run, run: Run, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(date):
        now = date(2025, 1, 31)

        @classmethod
        def today(cls) -> Any:
            return cls.now

    model = shutil.copytree(tiny_model_dir, tmp_path / "dated")
    template = model / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }} " + template.read_text())
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", str(model))
    monkeypatch.setattr(chat_template, "Date", Clock)
    train("--name", "whole")
    assert train("--limit", "4", "--name", "a").code == 0
    assert settings_of("a")["settings"]["model"]["date"] == "2025-01-31"
    Clock.now = date(2025, 2, 1)
    resumed = train("--resume", "a", "--limit", "0")
    assert resumed.code == 0, resumed.err
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    assert run("play", "letters", "--run", "a").code == 0
    assert "31 Jan 2025" in run("play", "letters", "--run", "a", "--json").out
    assert "01 Feb 2025" in run("play", "letters", "--json").out
    other = train("--resume", "a", "--set", "model.date=2025-02-02")
    assert (other.code, "model.date" in other.err) == (2, True)


def test_data_that_has_changed_is_noticed(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path("data.jsonl")
    lines = [json.dumps({"id": str(n), "question": f"q{n}", "gold": n}) for n in range(4)]
    data.write_text("\n".join(lines) + "\n")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 4)
        train("--data", str(data), "--name", "a")
    for changed, said in (
        (lines[:3], "example '3' is no longer there"),
        ([*lines, lines[0].replace('"0"', '"4"')], "example '4' was not there"),
        ([*lines[:3], lines[3].replace("q3", "q4")], "example '3' has other inputs now"),
        ([*lines[:3], lines[3].replace("}", ', "hint": "x"}')], "example '3' has other inputs now"),
        ([lines[0].replace("0}", "7}"), *lines[1:]], "example '0' has other gold now"),
        (lines[::-1], "number 1 was example '"),
    ):
        data.write_text("\n".join(changed) + "\n")
        done = train("--resume", "a")
        assert done.code == 2
        assert "the data has changed since run 'a' began, in split 'train' of" in done.err
        assert said in done.err
        assert "Bring the data back, or begin a new run" in done.err
    moved = Path("moved.jsonl")
    moved.write_text("\n".join(lines) + "\n")
    assert train("--resume", "a", "--data", str(moved)).code == 0


def test_inputs_that_change_are_noticed_when_a_run_gets_more_examples(train: Run) -> None:
    data = Path("data.jsonl")
    lines = [json.dumps({"id": str(n), "question": f"q{n}", "gold": n}) for n in range(4)]
    data.write_text("\n".join(lines))
    assert train("--data", "data.jsonl", "--limit", "2", "--name", "a").code == 0
    trained = json.loads(Path("runs/a/examples.jsonl").read_text().splitlines()[1])[0]
    data.write_text("\n".join(line.replace(f"q{trained}", "other") for line in lines))
    done = train("--resume", "a", "--limit", "4")
    assert done.code == 2
    assert f"example '{trained}' has other inputs now" in done.err
    data.write_text("\n".join([*lines, lines[0].replace('"0"', '"4"')]))
    done = train("--resume", "a", "--limit", "4")
    assert done.code == 2
    assert "(of 5 examples now, and 4 then). Bring the data back" in done.err
    data.write_text("\n".join(lines))
    assert train("--resume", "a", "--limit", "3").code == 0
    assert len(Path("runs/a/examples.jsonl").read_text().splitlines()) == 3
    Path("runs/a/examples.jsonl").unlink()
    data.write_text("\n".join(lines).replace("q", "r"))
    done = train("--resume", "a", "--limit", "4")
    assert "gives 3 examples to train on, which are not the run's 3" in done.err


def test_a_run_of_an_earlier_flowtune_is_left_as_it_is(train: Run) -> None:
    train("--limit", "2", "--name", "a")
    connection = sqlite3.connect("runs/a/store.sqlite")
    with closing(connection), connection:
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    before = {file: file.read_bytes() for file in Path("runs/a").rglob("*.json*")}
    done = train("--resume", "a", "--limit", "3")
    assert done.code == 2
    assert "was written by an older flowtune" in done.err
    assert {file: file.read_bytes() for file in Path("runs/a").rglob("*.json*")} == before


def test_from_begins_with_what_was_learned(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    train("--limit", "4", "--name", "a", "--set", "learning.optimizer=adam", "--set=adapter.rank=3")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 1)
        stopped = train("--from", "a", "--name", "b", "--split", "test")
    assert stopped.code == 130
    old, new = Path("runs/a/checkpoints/0000004"), Path("runs/b/checkpoints/0000000")
    for node in ("draft", "check", "write"):
        file = "adapter_model.safetensors"
        weights = (old / "adapters" / node / file).read_bytes()
        assert (new / "adapters" / node / file).read_bytes() == weights
        assert (new / "adapters" / f"reference-of-{node}" / file).read_bytes() == weights
        optimizer = f"optimizers/{node}.safetensors"
        assert load_file(old / optimizer)
        assert (new / optimizer).read_bytes() == (old / optimizer).read_bytes()
    stored = settings_of("b")
    assert stored["settings"]["adapter"]["rank"] == 3
    assert stored["settings"]["learning"]["optimizer"] == "adam"
    assert stored["settings"]["training"]["limit"] == 0
    origin = {"layer": "command line", "text": "--set", "run": "a"}
    assert stored["origins"]["adapter.rank"] == origin
    assert stored["from"] == str(old.absolute())
    assert train("--resume", "b").code == 0
    assert json.loads(Path("runs/b/run.json").read_text())["episodes"] == 5


def test_from_is_refused_for_other_adapters_and_without_a_checkpoint(train: Run) -> None:
    train("--limit", "2", "--name", "a")
    done = train("--from", "a", "--set", "adapter.rank=4", "--model", "another")
    assert done.code == 2
    assert "adapter.rank = 2 in the run, and 4 now (--set)" in done.err
    assert 'and "another" now (--model)' in done.err
    RunDirectory.create(Path("runs"), "empty", task="letters", model="m", settings=settings_of("a"))
    done = train("--from", "empty")
    assert done.code == 2
    assert "run 'empty' has no checkpoint yet" in done.err


def test_a_loss_that_is_not_finite_fails_the_run_and_keeps_its_checkpoint(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--name", "whole", "--set", "training.keep_checkpoints=9")
    good = datum_losses.dpo_loss

    def bad_later(*given: Any) -> Any:
        bad = Path("runs/a/checkpoints/0000004").exists()
        return good(*given) * (float("nan") if bad else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(datum_losses, "dpo_loss", bad_later)
        done = train("--name", "a", "--set", "training.keep_checkpoints=9")
    assert done.code == 1
    assert "loss of node" in done.err
    assert "newest checkpoint is after 4 episodes" in done.err
    assert "flowtune train --resume a" in done.err
    assert state("a") == "failed"
    kept = learned(Path("runs/a"))
    assert kept.keys() == {str(Path("checkpoints/0000004", *Path(k).parts[2:])) for k in kept}
    for name, content in kept.items():
        assert (Path("runs/whole") / name).read_bytes() == content
    assert train("--resume", "a").code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_lost(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("--name", "whole")
    replace, directory = os.replace, Path("runs/a").absolute()

    def full(source: Any, target: Any) -> None:
        if Path("runs/a/checkpoints/0000004").exists() and directory in Path(target).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = train("--name", "a")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    assert state("a") == "interrupted", "there was no room to say more"
    assert train("--resume", "a").code == 0
    assert learned(Path("runs/a")) == learned(Path("runs/whole"))
    assert rows(Path("runs/a")) == rows(Path("runs/whole"))


def test_a_checkpoint_that_cannot_be_written_fails_the_run(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("flowtune_cli.training.checkpoint._flush", full)
        done = train("--name", "a")
    assert done.code == 1
    assert f"checkpoint {Path.cwd()}/runs/a/checkpoints/0000004 could not be written" in done.err
    assert "There is no checkpoint yet. Start the run again with" in done.err
    assert state("a") == "failed"
    assert list(Path("runs/a/checkpoints").iterdir()) == []
    killed = Path("runs/a/checkpoints/.0000002.partial")
    killed.mkdir()
    assert train("--resume", "a").code == 0
    assert not killed.exists()


def test_too_many_failures_fail_the_run_and_may_be_allowed(train: Run) -> None:
    settings = ("tasks.letters.fail_at=train-2", "training.max_failures=0.01")
    done = train("--name", "a", *(f"--set={setting}" for setting in settings))
    assert done.code == 1
    assert "this example always fails" in done.err
    assert state("a") == "failed"
    done = train("--resume", "a", "--set", "training.max_failures=1")
    assert done.code == 0
    assert "1 of 8 episodes failed" in done.err


def test_how_to_go_on_is_no_part_of_what_other_processes_are_sent(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who tells of an error of another process would say it twice."""
    error = FlowtuneError("no luck")

    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr("flowtune_cli.training.loop.Trainer.train", fail)
    done = train("--name", "a")
    assert str(error) == "no luck"
    assert "flowtune: error: no luck\nThere is no checkpoint yet." in done.err
    assert done.err.endswith("  flowtune train --resume a\n")


def _bug(self: Any, *given: Any) -> None:
    raise ZeroDivisionError("a bug")


def test_a_bug_in_a_plugin_shows_its_traceback_and_how_to_go_on(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("flowtune_cli.learning.learner.Learner.update", _bug)
        with pytest.raises(ZeroDivisionError):
            train("--name", "a")
    assert state("a") == "failed"


def test_a_node_that_cannot_take_targets_fails_its_episodes(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("flowtune_cli.nodes.judge.Judge.target_data", _bug)
        done = train("--name", "a")
    assert done.code == 1
    assert "failed, more than training.max_failures = 0.1 allows. The last one, of ex" in done.err
    assert "ZeroDivisionError: a bug" in done.err
    assert state("a") == "failed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which task to train"),
        (["letter"], "unknown task 'letter'. Did you mean 'letters'?"),
        (["letters", "--resume", "a", "--name", "b"], "--name and --from are for a new one"),
        (["--resume", "nothing"], "unknown run 'nothing'"),
        (["letters", "--from", "nothing"], "unknown run 'nothing'"),
        (["letters", "--split", "tset"], "unknown split of task 'letters' 'tset'. Did you mean"),
        (["letters", "--name", "a/b"], "'a/b' cannot be the name of a run"),
        (["letters", "--data", "missing.jsonl"], "missing.jsonl: cannot be read: No such file"),
        (["letters", "--data", "bad.jsonl"], "bad.jsonl:2: "),
        (["letters", "--data", "unlabelled.jsonl"], "example 'x' has no labels"),
        (["letters", "--data", "empty.jsonl"], "there is nothing to train on"),
        (["letters", "--model", "missing/model/here"], "missing/model/here"),
        (["letters", "--set", "learning.optimizer={name='cocob', alpah=1}"], "Did you mean"),
        (
            [
                *("letters", "--set", "engine.rollouts=vllm"),
                *("--set", "engine.vllm.urls=['http://127.0.0.1:1']"),
            ],
            "no server of vLLM answers at http://127.0.0.1:1",
        ),
    ],
)
def test_wrong_use_leaves_no_run(letters: Site, run: Run, arguments: list[str], said: str) -> None:
    Path("bad.jsonl").write_text('{"id": "x", "question": "q", "gold": 1}\n{"id": \n')
    Path("unlabelled.jsonl").write_text('{"id": "x", "question": "q"}\n')
    Path("empty.jsonl").write_text("")
    done = run("train", *arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert done.out == ""
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_a_taken_name_is_told_before_the_model_is_loaded(train: Run) -> None:
    train("--limit", "2", "--name", "a")
    done = train("--name", "a")
    assert done.code == 2
    assert f"'a' already exists in {Path('runs').absolute()}. " in done.err
    assert "loading" not in done.err


def test_a_node_that_learned_nothing_is_warned_of_here_and_in_the_report(
    train: Run, run: Run
) -> None:
    misspelt = ("--set", "tasks.letters.nodes.draft.reward=sums")
    untaught = ("--set", "tasks.letters.nodes.write.reward=")
    done = train("--limit", "2", "--name", "a", *misspelt, *untaught)
    draft = (
        "node 'draft' has learned nothing: the flow never reported its reward 'sums'."
        " Did you mean 'sum'? It reported: sum"
    )
    assert f"flowtune: warning: {draft}\n" in done.err
    assert "warning: node 'write' has learned nothing: it has neither a reward nor" in done.err
    assert "node 'check'" not in done.err
    again = train("--resume", "a", "--json")
    warnings = json.loads(again.out)["warnings"]
    assert warnings[0] == {"node": "draft", "text": draft}
    [reported] = json.loads(run("report", "a", "--json").out)["runs"]
    assert reported["warnings"] == warnings
