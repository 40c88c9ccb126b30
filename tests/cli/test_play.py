"""``flowtune play``: one example, step after step."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site

Run = Callable[..., Any]


@pytest.fixture
def play(letters: Site, run: Run) -> Run:
    return lambda *arguments: run("play", "letters", *arguments)


def test_every_step_is_shown(play: Run) -> None:
    done = play("--full")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[:2] == ["example  train-0: train 0", "gold     0"]
    heads = [line for line in lines if line.startswith("step ")]
    assert heads == [
        "step 0  draft  (generate, adapter version 0)",
        "step 1  check  (judge, adapter version 0)",
        "step 2  write  (generate, adapter version 0)",
    ]
    at = lines.index(heads[0])
    assert lines[at + 1 : at + 3] == ["  | <|im_start|>user", "  | Draft train 0<|im_end|>"]
    assert any(line.startswith("  => ") for line in lines)
    assert any("logprob -" in line and "TRUNCATED" in line for line in lines)
    assert "  target: true" in lines[lines.index(heads[1]) :]
    assert any(line.startswith("  reward sum = 0.") for line in lines[lines.index(heads[2]) :])
    assert lines[-2].startswith('result   {"text": ')
    assert lines[-1].startswith("reward   sum 0.")
    assert "\x1b" not in done.out
    assert "alternative" not in done.out


def test_deviations_show_outcomes_and_preferences(play: Run) -> None:
    out = play("--deviate").out
    shown = json.loads(play("--deviate", "--json").out)
    assert len(shown["rollouts"]) == out.count("\n  alternative ") > 0
    for deviation in shown["rollouts"]:
        gain, before = deviation["gain"], deviation["greedy_reward"]
        after = deviation["alternative_reward"]
        line = f"{deviation['outcome']}, gain {gain:+.3f}: sum {before:.3f} -> {after:.3f}"
        assert f"    {line}\n" in out
    assert len(shown["preferences"]) == out.count("\n    preference: chosen ") > 0
    for preference in shown["preferences"]:
        sides = [f"alternative {preference['alternative']}", "the greedy output"]
        if preference["chosen"] == shown["steps"][preference["step"]]["output"]["text"]:
            sides.reverse()
        margin = f"margin {preference['margin']:.3f}"
        assert f"    preference: chosen {sides[0]}, rejected {sides[1]}, {margin}\n" in out
    assert f"rollouts {len(shown['rollouts'])}: " in out


def test_json_has_everything(play: Run) -> None:
    shown = json.loads(play("--example", "train-3", "--deviate", "--json").out)
    assert shown["example"] == {
        "id": "train-3",
        "question": "train 3",
        "inputs": {"question": "train 3"},
        "gold": 3,
    }
    assert [step["node"] for step in shown["steps"]] == ["draft", "check", "write"]
    assert shown["rewards"] == [{"name": "sum", "value": None, "steps": 3}]
    assert shown["targets"] == [{"step": 1, "gold": False}]
    assert {d["outcome"] for d in shown["rollouts"]} == {"skipped"}
    assert [o["text"] for o in shown["steps"][1]["options"]] in (["Yes", "No"], ["No", "Yes"])
    assert shown["failure"] is None
    assert shown["played_by"].startswith("untrained ")


def test_a_run_plays_as_it_was_trained(play: Run, run: Run) -> None:
    run("train", "letters", "--name", "a", "--limit", "4", "--set", "adapter.rank=3")
    trained = json.loads(play("--run", "a", "--example", "train-6", "--json").out)
    untrained = json.loads(play("--example", "train-6", "--json").out)
    with RunReader(Path("runs/a/store.sqlite")) as reader:
        updates = reader.updates()
        assert trained["steps"][0]["adapter_version"] == updates["draft"][-1].update.version_after
    assert untrained["steps"][0]["adapter_version"] == 0
    assert trained["steps"][0]["output"]["logprob"] != untrained["steps"][0]["output"]["logprob"]
    assert "checkpoint 0000004" in trained["played_by"]


def test_an_example_can_be_named_by_how_its_id_begins(play: Run) -> None:
    data = Path("data.jsonl")
    ids = ["abc", "abd", "b", "bc"]
    lines = [json.dumps({"id": name, "question": f"what is {name}"}) for name in ids]
    data.write_text("\n".join(lines))
    assert play("--data", str(data), "--example", "abd").out.startswith("example  abd: what is abd")
    assert play("--data", str(data), "--example", "b").out.startswith("example  b: ")
    assert play("--data", str(data)).out.startswith("example  abc: ")
    ambiguous = play("--data", str(data), "--example", "ab")
    assert ambiguous.code == 2
    assert "2 example ids start with 'ab': abc, abd" in ambiguous.err
    unknown = play("--data", str(data), "--example", "bcx")
    assert unknown.code == 2
    assert "no example has the id 'bcx'. Did you mean 'bc'?" in unknown.err


def test_long_texts_are_shortened_unless_they_are_wanted_whole(play: Run) -> None:
    question = "\n".join(f"line {number} \x1b[31m" for number in range(40)) + " " + "long " * 40
    Path("data.jsonl").write_text(json.dumps({"id": "x", "question": question}))
    short = play("--data", "data.jsonl").out
    assert "line 2 \\x1b[31m\n" in short
    assert "line 20" not in short
    assert "more lines; --full shows them ..." in short
    assert max(map(len, short.splitlines())) <= 96
    full = play("--data", "data.jsonl", "--full").out
    assert "line 20 \\x1b[31m\n" in full
    assert "  | line 39 \\x1b[31m " + "long " * 40 in full
    assert "--full" not in full


def test_a_failing_flow_shows_its_traceback(play: Run) -> None:
    done = play("--set", "tasks.letters.fail_at=train-0")
    assert done.code == 1
    assert "the flow FAILED:" in done.out
    assert "RuntimeError: this example always fails" in done.out


def test_settings_that_do_not_fit_the_run(play: Run, run: Run) -> None:
    run("train", "letters", "--name", "a", "--limit", "2")
    done = play("--run", "a", "--set", "adapter.alpha=3.0")
    assert done.code == 2
    assert "adapter.alpha = 16.0 in the run, and 3.0 now (--set)" in done.err
    done = play("--run", "a", "--set", "tasks.letters.loud=true")
    assert done.code == 0
    assert "tasks.letters.loud = false in the run, and true now (--set)" in done.err


def test_a_run_of_another_task(play: Run, run: Run) -> None:
    run("train", "letters", "--name", "a", "--limit", "2")
    done = run("play", "hop-qa", "--run", "a")
    assert done.code == 2
    assert "run 'a' is of task 'letters', not hop-qa" in done.err


def test_what_an_evaluator_was_shown_and_said(letters: Site, run: Run) -> None:
    judged = (
        "--deviate",
        "--set",
        'tasks.letters.nodes.draft.evaluator={name = "llm_judge", tie = 0.0}',
    )
    whole = run("play", "letters", "--full", *judged)
    assert "    the evaluator showed the model:\n" in whole.out
    assert "question: train 0\n" in whole.out
    assert re.search(r"    -> A  \(logprob -\d+\.\d{3}\)\n", whole.out)
    played = json.loads(run("play", "letters", "--json", *judged).out)
    calls = [call for d in played["rollouts"] for call in d["evaluator_calls"]]
    assert calls
    assert all("question: train 0" in call["prompt"] for call in calls)
    assert [[answer["text"] for answer in call["answers"]] for call in calls] == [["A", "B"]] * len(
        calls
    )


def test_an_evaluator_that_fails(letters: Site, run: Run) -> None:
    letters.install("judge", JUDGE)
    judged = ("--deviate", "--set", "tasks.letters.nodes.draft.evaluator=late")
    done = run("play", "letters", *judged)
    assert done.code == 0
    assert "    evaluator FAILED: late: TimeoutError: no answer" in done.out
    assert "in compare" in done.out


JUDGE = """
from flowtune_cli import hookimpl

class Late:
    name = "late"
    async def compare(self, ask, task, example, first, second):
        raise TimeoutError("no answer")

@hookimpl
def register_rewards(register):
    register(Late)
"""


def test_inputs_of_ones_own(play: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = json.dumps({"question": "what is mine?"})
    done = play("--input", given, "--json")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    assert shown["example"].pop("id").startswith("input-")
    assert shown["example"] == {
        "question": "what is mine?",
        "inputs": {"question": "what is mine?"},
        "gold": None,
    }
    assert "what is mine?" in shown["steps"][0]["prompt"]
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    again = json.loads(play("--input", "-", "--json").out)
    assert again.pop("example")["id"].startswith("input-")
    del shown["example"]
    assert again == shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "{"], "--input is not JSON"),
        (["--input", "[1]"], "--input must be a JSON object"),
        (["--input", "{}", "--split", "dev"], "leave --example, --data and --split out"),
    ],
)
def test_inputs_that_are_none(play: Run, arguments: list[str], said: str) -> None:
    done = play(*arguments)
    assert done.code == 2
    assert said in done.err


def test_inputs_that_the_flow_does_not_know(play: Run, run: Run) -> None:
    done = play("--input", '{"text": "x"}')
    assert done.code == 1
    assert "example has no input 'question'; it has: text" in done.out
    assert run("train", "letters", "--name", "a", "--limit", "2").code == 0
    for given, said in (
        ('{"qestion": "x"}', "there is no input 'qestion'. Did you mean 'question'?"),
        ('{"question": ["x"]}', "the input 'question' is a list, and in the run's examples it was"),
    ):
        done = play("--run", "a", "--input", given)
        assert done.code == 2
        assert said in done.err
    done = play("--run", "a", "--input", '{"question": "x", "tone": "sad"}')
    assert done.code == 0
    assert "warning: the input 'tone' is unknown, and maybe ignored" in done.err


def test_a_run_is_played_as_of_any_of_its_checkpoints(play: Run, run: Run) -> None:
    steps = ("--set", "training.save_every=2", "--set", "training.batch_size=2")
    assert run("train", "letters", "--name", "a", "--limit", "6", *steps).code == 0
    found = {
        name: json.loads(play("--run", name, "--json").out)
        for name in ("a", "a@last", "a@6", "a@4", "runs/a@4")
    }
    for name in ("a@last", "a@6"):
        assert found[name]["steps"] == found["a"]["steps"]
    assert found["runs/a@4"] == found["a@4"]
    assert "checkpoint 0000004" in found["a@4"]["played_by"]
    versions = [found[name]["steps"][0]["adapter_version"] for name in ("a@4", "a")]
    assert versions[0] < versions[1]
    for name in ("a@3", "a@beast", "a@"):
        done = play("--run", name)
        assert done.code == 2
        assert "has no checkpoint" in done.err
        assert "'last'" in done.err
    done = play("--run", "b@4")
    assert done.code == 2
    assert "unknown run 'b'" in done.err
    exported = run("export", "a@4", "--adapters", "x", "--json")
    assert json.loads(exported.out)["adapters"]["episodes"] == 4
    done = run("export", "a@4", "--preferences", "p.jsonl")
    assert done.code == 2
    assert "matters for --adapters alone" in done.err
    assert run("train", "letters", "--from", "a@4", "--name", "c", "--limit", "2").code == 0
