"""Post-processors at the command line: flags of predict, and ``flowtune postprocess``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.runs_compared import press_ctrl_c
from support.scored_task import SCORED

Run = Callable[..., Any]
FIELDS = {"id", "text", "good"}


@pytest.fixture
def scored(letters: Site, run: Run) -> Run:
    """Runs a command for the split test of the task "scored"."""
    letters.install("scored", SCORED)

    def call(command: str, *arguments: str) -> Any:
        small = ("--set", "engine.in_flight=2") if command == "predict" else ()
        return run(command, "scored", *arguments, "--split", "test", *small)

    return call


def lines(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_scores_and_rollouts_are_written_only_if_wanted(scored: Run) -> None:
    assert scored("predict", "--out", "plain.jsonl").code == 0
    assert scored("predict", "--out", "scores.jsonl", "--scores").code == 0
    done = scored("predict", "--out", "all.jsonl", "--scores", "--rank", "--longest")
    assert done.code == 0
    assert scored("predict", "--out", "short.jsonl", "--longest").code == 0

    plain, scores, everything, short = (
        lines(f"{name}.jsonl") for name in ("plain", "scores", "all", "short")
    )
    assert all(line.keys() == FIELDS for line in plain + short)
    assert all(line.keys() == FIELDS | {"length", "example_id"} for line in scores)
    assert [{k: line[k] for k in FIELDS} for line in scores] == plain
    assert all(line.keys() == scores[0].keys() | {"rollouts", "rank"} for line in everything)
    assert [
        {**line, "text": more["text"]} for line, more in zip(plain, short, strict=True)
    ] == short
    rollouts = everything[0]["rollouts"]
    assert [(r["node"], r["step"], r["alternative"]) for r in rollouts] == [
        ("draft", 0, 1),
        ("draft", 0, 2),
    ]
    assert rollouts[0]["result"].keys() == {"text", "good"}
    # In their own order: rank has seen what longest chose.
    chosen = [line["text"] for line in everything]
    assert f"rank: after {','.join(chosen)}\n" in done.err
    assert "longest: 5 lines have rollouts" in done.err
    for before, after, line in zip(plain, short, everything, strict=True):
        texts = [before["text"], *(r["result"]["text"] for r in line["rollouts"])]
        assert after["text"] == max(texts, key=lambda text: (len(text), text))


def test_a_task_without_scores_says_so(letters: Site, run: Run) -> None:
    done = run("predict", "letters", "--split", "test", "--out", "out.jsonl", "--scores")
    assert "note: task 'letters' has no scores: --scores adds nothing" in done.err
    assert all(line.keys() == FIELDS for line in lines())


def test_a_file_is_post_processed_as_predict_would_have(scored: Run) -> None:
    scored("predict", "--out", "all.jsonl", "--scores", "--rank", "--longest")
    scored("predict", "--out", "longest.jsonl", "--scores", "--longest")
    done = scored("postprocess", "longest.jsonl", "--out", "both.jsonl", "--rank", "--longest")
    assert (done.code, done.out) == (0, "")
    assert lines("both.jsonl") == lines("all.jsonl")
    assert f"wrote 5 predictions to {Path('both.jsonl').absolute()}\n" in done.err
    assert "have no rollouts" not in done.err
    scored("predict", "--out", "plain.jsonl")
    bare = scored("postprocess", "plain.jsonl", "--out", "bare.jsonl", "--longest")
    assert (
        "warning: 5 of 5 lines have no rollouts, which --longest needs: predict with --scores and"
        " --longest" in bare.err
    )
    done = scored("postprocess", "longest.jsonl", "--out", "both.jsonl", "--rank")
    assert "both.jsonl exists" in done.err
    assert (
        scored("postprocess", "both.jsonl", "--out", "both.jsonl", "--rank", "--overwrite").code
        == 0
    )
    assert lines("both.jsonl") == lines("all.jsonl")


def test_what_a_file_lacks_is_said(scored: Run) -> None:
    scored("predict", "--out", "plain.jsonl")
    done = scored("postprocess", "plain.jsonl", "--out", "out.jsonl", "--longest")
    assert "longest: 0 lines have rollouts" in done.err
    assert lines() == lines("plain.jsonl")
    done = scored("postprocess", "plain.jsonl", "--out", "ranked.jsonl", "--rank")
    assert (done.code, done.err) == (2, "flowtune: error: no length: predict with --scores\n")
    assert not Path("ranked.jsonl").exists()
    assert "nothing to do" in scored("postprocess", "plain.jsonl", "--out", "x.jsonl").err


def test_a_file_in_another_order_is_put_right_if_wanted(scored: Run) -> None:
    scored("predict", "--out", "plain.jsonl", "--scores")
    Path("turned.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in lines("plain.jsonl")[::-1])
    )
    done = scored("postprocess", "turned.jsonl", "--out", "out.jsonl", "--rank")
    assert done.code == 2
    assert "4 of 5 predictions are not in the order of the data" in done.err
    done = scored("postprocess", "turned.jsonl", "--out", "out.jsonl", "--reorder")
    assert "sorted 4 of 5 predictions into the order of the data" in done.err
    assert lines() == lines("plain.jsonl")


@pytest.mark.parametrize(
    ("first", "then", "goes_on"),
    [
        ([], ["--scores"], True),
        (["--scores", "--rank"], [], True),
        (["--longest"], ["--longest", "--rank", "--scores"], True),
        ([], ["--longest"], False),
        (["--longest"], [], False),
    ],
)
def test_interrupted_with_one_set_of_flags_and_gone_on_with_another(
    scored: Run,
    monkeypatch: pytest.MonkeyPatch,
    first: list[str],
    then: list[str],
    goes_on: bool,
) -> None:
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 8)
        assert scored("predict", "--out", "out.jsonl", *first).code == 130
    assert 0 < len(lines("out.jsonl.partial")) < 5
    done = scored("predict", "--out", "out.jsonl", *then)
    if goes_on:
        assert f"resuming from {Path('out.jsonl.partial').absolute()}" in done.err
        scored("predict", "--out", "whole.jsonl", *then)
        assert lines() == lines("whole.jsonl")
    else:
        assert done.code == 2
        assert "was made by" in done.err
        assert "with alternatives of draft" in done.err
        assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("task", "flag", "said"),
    [
        ("letters", "--rank", "unknown post-processor of task 'letters' 'rank'. Known: none."),
        ("letters", "--rank", "'rank' is for scored, other."),
        ("scored", "--longst", "No such option: --longst"),
        ("scored", "--longst", "--longest"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "postprocess"])
def test_a_flag_that_is_not_of_this_task(
    letters: Site, run: Run, command: str, task: str, flag: str, said: str
) -> None:
    letters.install("scored", SCORED)
    file = ["x.jsonl"] if command == "postprocess" else []
    done = run(command, task, *file, "--out", "out.jsonl", flag)
    assert done.code == 2
    assert said in done.err
    assert "loading" not in done.err


def test_help_and_ls_list_them(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "--longest" not in run("predict", "--help").out
    assert run("ls", "postprocessors").rows == []
    site.install("scored", SCORED)
    for command in ("predict", "postprocess"):
        text = " ".join(run(command, "--help").out.split())
        assert "--longest Post-processor for scored: The longest text of all rollouts." in text
    assert "--longest" not in run("evaluate", "--help").out
    assert run("ls", "postprocessors").rows == [
        ["longest", "scored", "scored-dist", "scored", "The longest text of all rollouts."],
        ["rank", "scored", "scored-dist", "scored, other", "The rank of each text by its length."],
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            'name = "out"; tasks = ("scored",)',
            "post-processor 'out': a command has an option --out",
        ),
        ('name = "new"; tasks = "scored"', "post-processor 'new': tasks must be a list of names"),
        ('name = "new"; tasks = ()', "post-processor 'new': tasks must be a list of names"),
        ('name = "new"; tasks = ("a",); nodes = "b"', "'new': nodes must be a list of names"),
        ('name = "a b"; tasks = ("scored",)', "needs a name of letters and digits"),
        ('tasks = ("scored",)', "post-processor New needs a name"),
        (
            'name = "new"; tasks = ("a",)\n    def __init__(self, x): ...',
            "post-processor 'new' cannot be made without 'x'",
        ),
    ],
)
def test_one_that_cannot_be_is_a_problem_of_its_plugin(
    site: Site, run: Run, source: str, said: str
) -> None:
    plugin = (
        "from flowtune_cli import PostProcessor, hookimpl\n"
        f"class New(PostProcessor):\n    {source}\n"
        "    def apply(self, task, examples, lines, note): return lines\n"
        "@hookimpl\ndef register_postprocessors(register):\n    register(New)\n"
    )
    site.install("new", plugin)
    if "an option" in said:
        from flowtune_cli.cli import postprocessors
        from flowtune_cli.registry import load_registry

        registry = load_registry()
        assert postprocessors._flags(registry, {"--out"}) == []
        assert said in [problem.error for problem in registry.problems]
        assert run("predict", "--help").code == 0
    else:
        assert said in run("plugins").out


def test_two_of_one_name_are_told_when_one_is_wanted(letters: Site, run: Run) -> None:
    letters.install("scored", SCORED)
    letters.install("again", SCORED.replace('name = "scored"', 'name = "again"'))
    done = run("predict", "scored", "--out", "out.jsonl", "--rank")
    assert done.code == 2
    assert "post-processor 'rank' comes from more than one plugin" in done.err


def test_a_node_that_the_task_lacks(letters: Site, run: Run) -> None:
    letters.install("scored", SCORED.replace('nodes = ("draft",)', 'nodes = ("drft",)'))
    done = run("predict", "scored", "--out", "out.jsonl", "--longest")
    assert done.code == 2
    assert "post-processor 'longest': unknown node of task 'scored' 'drft'" in done.err
    assert "Did you mean 'draft'?" in done.err
