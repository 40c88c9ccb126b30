"""Every command but train uses all examples of the data, whatever training leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site
from support.letters_task import LETTERS
from support.musique_records import musique_record

Run = Callable[..., Any]

EVEN_ONLY = LETTERS.replace(
    "    def examples(self",
    """    training_filter = "odd ones are left out"

    def training_examples(self, examples, split):
        return (e for e in examples if split == "test" or int(e.id[-1]) % 2 == 0)

    def examples(self""",
)


def ids(path: str) -> list[str]:
    return [json.loads(line)["id"] for line in Path(path).read_text().splitlines()]


def test_only_training_leaves_examples_out_and_says_so(letters: Site, run: Run) -> None:
    letters.install("even", EVEN_ONLY.replace('name = "letters"', 'name = "even"'))
    done = run("train", "even")
    assert done.code == 0, done.err
    why = "training uses 4 of the 8 examples of split 'train': odd ones are left out"
    assert f"flowtune: note: {why}\n" in done.err
    assert "4/4 episodes" in done.err
    assert "training uses" not in run("train", "even", "--split", "test", "--limit", "1").err

    assert run("predict", "even", "--out", "out.jsonl").code == 0
    assert ids("out.jsonl") == [f"train-{number}" for number in range(8)]
    assert run("evaluate", "even", "out.jsonl").rows[1] == ["count", "8"]
    assert run("play", "even", "--example", "train-3").code == 0


def test_a_run_resumes_on_the_examples_that_it_was_trained_on(letters: Site, run: Run) -> None:
    letters.install("even", EVEN_ONLY.replace('name = "letters"', 'name = "even"'))
    assert run("train", "even", "--limit", "2").code == 0
    done = run("train", "--resume", "even-001", "--limit", "4")
    assert done.code == 0, done.err
    assert "training uses 4 of the 8 examples" in done.err
    assert "4/4 episodes" in done.err


@pytest.fixture
def musique(
    site: Site, roomy_model_dir: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> Callable[..., Any]:
    """Runs a command of the task musique-full on six pairs of train, of which most are thinned."""
    pytest.importorskip("flowtune_musique")
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", str(roomy_model_dir))
    monkeypatch.setenv("FLOWTUNE_MODEL__DTYPE", "float32")
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "builtin,musique")
    records = [musique_record(f"2hop__{n}", marker) for n in range(6) for marker in ("", "!")]
    Path("F.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    small = [f"--set=tasks.musique-full.nodes.{node}.max_new_tokens=2" for node in ("query",)]
    small.append("--set=tasks.musique-full.max_retrievals=1")

    def call(command: str, *more: str) -> Any:
        return run(command, "musique-full", *more, "--data", "F.jsonl", *small)

    return call


def test_musique_predicts_and_evaluates_every_record(musique: Run) -> None:
    done = musique("predict", "--out", "plain.jsonl")
    assert done.code == 0, done.err
    assert ids("plain.jsonl") == [f"2hop__{n}" for n in range(6) for _ in range(2)]
    counts = json.loads(musique("evaluate", "plain.jsonl", "--json").out)["counts"]
    assert (counts["records"], counts["pairs"]) == (12, 6)
    assert musique("postprocess", "plain.jsonl", "--out", "g.jsonl", "--grounded").code == 0
    assert ids("g.jsonl") == ids("plain.jsonl")

    done = musique("train", "--limit", "1")
    assert done.code == 0, done.err
    assert "training uses 2 of the 12 examples of split 'train': match_hops keeps a" in done.err


def test_musique_lines_are_sorted_by_example_id_within_a_pair(musique: Run) -> None:
    assert musique("predict", "--out", "scored.jsonl", "--scores").code == 0
    lines = Path("scored.jsonl").read_text().splitlines(keepends=True)
    Path("turned.jsonl").write_text("".join(lines[::-1]))
    assert "are not in the order of the data" in musique("evaluate", "turned.jsonl").err
    done = musique("postprocess", "turned.jsonl", "--out", "sorted.jsonl", "--reorder")
    assert done.code == 0, done.err
    assert Path("sorted.jsonl").read_text() == "".join(lines)
