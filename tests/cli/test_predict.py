"""``flowtune predict``: a line an example, however often it is interrupted."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import UsageError
from support.installed_plugins import Site
from support.program_files import forget_modules
from support.runs_compared import press_ctrl_c

Run = Callable[..., Any]
OUT = ("--out", "out.jsonl")
PROGRAM = """
def run(example):
    if example["q"] == 3:
        raise ValueError("three")
    return "done"
"""


@pytest.fixture
def predict(letters: Site, run: Run) -> Run:
    """Predicts the split test with at most two examples in flight."""
    small = ("--split", "test", "--set", "engine.in_flight=2")
    return lambda *arguments: run("predict", "letters", *small, *arguments)


def lines(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_line_an_example_in_their_order(predict: Run, run: Run) -> None:
    done = predict(*OUT)
    assert (done.code, done.out) == (0, "")
    assert [line["id"] for line in lines()] == [f"test-{number}" for number in range(5)]
    assert all(line.keys() == {"id", "text", "good"} for line in lines())
    assert "5/5 episodes" in done.err
    assert "flowtune evaluate letters out.jsonl --split test\n" in done.err
    assert not Path("out.jsonl.partial").exists()
    played = run("play", "letters", "--split", "test", "--example", "test-2", "--json")
    assert json.loads(played.out)["result"]["text"] == lines()[2]["text"]


def test_examples_without_labels_are_predicted(predict: Run) -> None:
    Path("data.jsonl").write_text('{"id": "x", "question": "what"}\n')
    assert predict(*OUT, "--data", "data.jsonl").code == 0
    assert [line["id"] for line in lines()] == ["x"]


def test_it_does_not_go_on_with_inputs_that_have_changed(
    predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path("data.jsonl")
    given = [json.dumps({"id": str(n), "question": f"q{n}", "hint": "h"}) for n in range(5)]
    data.write_text("\n".join(given))
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 6)
        assert predict(*OUT, "--data", "data.jsonl").code == 130
    data.write_text("\n".join([*given[:4], given[4].replace('"h"', '"other"')]))
    done = predict(*OUT, "--data", "data.jsonl")
    assert done.code == 2
    assert "out.jsonl.partial is of other data: example '4' has other inputs now" in done.err
    data.write_text("\n".join(given))
    assert predict(*OUT, "--data", "data.jsonl").code == 0


def test_an_id_that_two_could_share_is_refused(predict: Run) -> None:
    Path("data.jsonl").write_text('{"id": "x\\ud800", "question": "what"}\n')
    done = predict(*OUT, "--data", "data.jsonl")
    assert done.code == 2
    assert "data.jsonl: the id 'x\\ud800' has half of a surrogate pair" in done.err


def test_interrupted_it_goes_on(predict: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert predict("--out", "whole.jsonl").code == 0
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 6)
        done = predict(*OUT)
    assert done.code == 130
    written = len(Path("out.jsonl.partial").read_text().splitlines())
    assert 0 < written < 5
    assert f"has {written} of 5 lines; run the same command again to resume" in done.err
    assert not Path("out.jsonl").exists()
    done = predict(*OUT)
    assert done.code == 0
    assert (
        f"resuming from {Path('out.jsonl.partial').absolute()}, which has {written} of 5 lines"
        in done.err
    )
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_what_other_settings_began_is_not_mixed_in(
    predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 6)
        predict(*OUT)
    done = predict(*OUT, "--set", "tasks.letters.loud=true")
    assert done.code == 2
    assert "was made by" in done.err


def test_a_program_that_changed_before_it_goes_on_is_told(letters: Site, run: Run) -> None:
    Path("flow.py").write_text(PROGRAM)
    Path("d.jsonl").write_text('{"q": 1}\n{"q": 2}\n{"q": 3}\n')
    nodes = ("--set", "tasks.flow.nodes.a.learn=nothing")
    predict = ("predict", "flow.py:run", "--data", "d.jsonl", *nodes, *OUT)
    small = ("--set", "engine.in_flight=1")
    assert run(*predict, *small).code == 1
    again = run(*predict, *small)
    assert "has 2 of 3 lines" in again.err
    assert "has changed" not in again.err
    Path("flow.py").write_text(PROGRAM.replace("== 3", "== 4"))
    forget_modules(Path.cwd())
    done = run(*predict, *small)
    assert done.code == 0, done.err
    assert (
        "warning: 'function' of the program has changed since these lines were begun, which are"
        f" kept: delete {Path('out.jsonl.partial').absolute()} to make all" in done.err
    )
    forget_modules(Path.cwd())


def test_a_failing_example_is_named_and_what_is_before_it_kept(predict: Run) -> None:
    done = predict(*OUT, "--set", "tasks.letters.fail_at=test-3")
    assert done.code == 1
    assert "first one that failed is example 'test-3'" in done.err
    assert "RuntimeError: this example always fails" in done.err
    assert len(Path("out.jsonl.partial").read_text().splitlines()) == 3
    assert not Path("out.jsonl").exists()


def test_the_engine_forgets_between_chunks(predict: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowtune_cli.engine.engine import ModelEngine

    predict("--out", "whole.jsonl")
    forgotten = []
    forget = ModelEngine.forget
    monkeypatch.setattr(ModelEngine, "forget", lambda self: forgotten.append(forget(self)))
    monkeypatch.setattr("flowtune_cli.cli.predicting._CHUNK", 2)
    assert predict(*OUT).code == 0
    assert len(forgotten) == 3
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_run_predicts_as_it_was_trained_and_evaluate_is_told_how(predict: Run, run: Run) -> None:
    run("train", "letters", "--name", "a", "--limit", "2", "--set", "tasks.letters.loud=true")
    done = predict(*OUT, "--run", "a", "--limit", "3")
    assert [line["text"] for line in lines()] == [line["text"].upper() for line in lines()]
    assert len(lines()) == 3
    command = "flowtune evaluate out.jsonl --run a --split test --limit 3"
    assert f"{command}\n" in done.err
    evaluated = run(*command.split()[1:])
    assert evaluated.code == 0, evaluated.err
    assert evaluated.rows[1] == ["count", "3"]
    loud = "tasks.letters.loud=false"
    changed = predict("--out", "c.jsonl", "--run", "a", "--limit", "1", "--set", loud)
    assert f"c.jsonl --run a --split test --limit 1 --set {loud}\n" in changed.err
    other = run("evaluate", "other", *command.split()[2:])
    assert (other.code, "other" in other.err) == (2, True)
    untrained = predict("--out", "u.jsonl", "--limit", "1", "--set", "tasks.letters.loud=true")
    command = "flowtune evaluate letters u.jsonl --split test --limit 1"
    assert f"{command} --set tasks.letters.loud=true\n" in untrained.err


def test_examples_that_the_run_has_learned_from_are_told(
    predict: Run, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", "letters", "--name", "a", "--limit", "2").code == 0

    def not_at_all(*given: Any) -> None:
        raise UsageError("that is enough")

    monkeypatch.setattr("flowtune_cli.cli.predicting._play", not_at_all)
    done = run("predict", "letters", "--run", "a", *OUT)  # the first split, that of training
    assert "warning: 'a@2' was trained on 2 of the 8 examples" in done.err
    other = predict("--run", "a", "--out", "test.jsonl")
    assert "that is enough" in other.err
    assert "was trained on" not in other.err


def test_a_file_that_is_there_is_replaced_only_if_wanted(predict: Run) -> None:
    Path("out.jsonl").write_text("mine\n")
    done = predict(*OUT)
    assert done.code == 2
    assert "out.jsonl exists: choose another name, or use --overwrite" in done.err
    assert Path("out.jsonl").read_text() == "mine\n"
    assert predict(*OUT, "--overwrite").code == 0
    assert len(lines()) == 5


@pytest.mark.parametrize(
    ("out", "said"),
    [("nowhere/out.jsonl", "in a directory that does not exist"), (".", "is a directory")],
)
def test_a_file_that_cannot_be_is_told_at_once(predict: Run, out: str, said: str) -> None:
    done = predict("--out", out, "--overwrite")
    assert done.code == 2
    assert said in done.err
    assert "loading" not in done.err


def test_no_examples(predict: Run) -> None:
    Path("empty.jsonl").write_text("")
    done = predict(*OUT, "--data", "empty.jsonl")
    assert done.code == 2
    assert "the data has no examples" in done.err


def test_a_pipe_gets_the_lines_and_nothing_else_is_written(predict: Run) -> None:
    assert predict(*OUT).code == 0
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()))
    reader.start()
    before = sorted(Path().iterdir())
    done = predict("--out", "pipe")
    assert done.code == 0
    assert "Next, try" not in done.err, "what is in a pipe is read once"
    reader.join()
    assert read == [Path("out.jsonl").read_text()]
    assert sorted(Path().iterdir()) == before


def test_interrupted_on_the_way_to_a_pipe_nothing_is_kept(
    predict: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo("pipe")
    before = sorted(Path().iterdir())
    press_ctrl_c(monkeypatch, 6)
    done = predict("--out", "pipe")
    assert done.code == 130
    assert "interrupted. pipe is a device or pipe, so nothing is kept: start again." in done.err
    assert sorted(Path().iterdir()) == before
