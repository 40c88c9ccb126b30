"""Whether a run has learned from examples that it is to be judged by, or was chosen by them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import Example
from flowtune_cli.cli.held_out import read_held_out
from flowtune_cli.cli.learned_from import learned_from, tell_chosen_by, tell_trained_on
from flowtune_cli.cli.stored_settings import TrainingData
from flowtune_cli.config.settings import EvaluateSettings
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.example_digests import digest_of_all, example_digests, write_digests
from support.fake_engine import FlowTask

NUMBERS = {"path": "/data", "split": "train", "examples": 4, "examples_sha256": "0"}


def numbered(numbers: Iterable[int], gold: object = "yes") -> list[Example]:
    return [Example(str(n), {"question": f"q{n}"}, gold) for n in numbers]


def checkpoint_of(
    path: Path,
    examples: list[Example],
    episodes: int,
    source: Path | None = None,
    **data: Any,
) -> Path:
    """A run that was to learn from all of these, and its checkpoint after some of them."""
    settings = {
        "settings": {},
        "origins": {},
        "config": None,
        "from": None if source is None else str(source),
        "data": {**NUMBERS, **data},
    }
    digests = example_digests(examples, pytest.fail)
    run = RunDirectory.create(
        path.parent, path.name, task="t", model="m", settings=settings, examples=digests
    )
    made = run.checkpoints / f"{episodes:07d}"
    made.mkdir()
    return made


def test_only_what_was_played_before_a_checkpoint_was_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = checkpoint_of(tmp_path / "a", numbered(range(4)), episodes=2)
    assert [digest.id for digest in learned_from(made).digests] == ["0", "1"]
    tell_trained_on("a", made, numbered([1, 2, 3]))
    assert capsys.readouterr().err == "flowtune: warning: 'a' was trained on 1 of the 3 examples\n"


def test_a_run_has_learned_what_the_one_before_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = checkpoint_of(tmp_path / "a", numbered(range(4)), episodes=2)
    second = checkpoint_of(tmp_path / "b", numbered([7]), episodes=1, source=first)
    third = checkpoint_of(tmp_path / "c", numbered([8]), episodes=1, source=second)
    tell_trained_on("c", third, numbered([0, 3, 7, 8]))
    assert capsys.readouterr().err == "flowtune: warning: 'c' was trained on 3 of the 4 examples\n"


def test_other_labels_and_two_of_one_kind_are_the_same_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = checkpoint_of(tmp_path / "a", numbered([1]), episodes=1)
    twice = [Example(name, {"question": "q1"}, "no") for name in ("x", "y")]
    tell_trained_on("a", made, [*twice, *numbered([2])])
    assert capsys.readouterr().err == "flowtune: warning: 'a' was trained on 2 of the 3 examples\n"


def test_inputs_that_cannot_be_told_apart_are_told_by_their_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = [Example(str(n), {"image": (lambda: None)}, gold=n) for n in range(3)]
    digests = example_digests(examples, lambda text: None)
    made = checkpoint_of(tmp_path / "a", [], episodes=1)
    run = RunDirectory(tmp_path / "a")
    write_digests(run.examples_path, digests[:1])
    tell_trained_on("a", made, examples)
    assert capsys.readouterr().err == "flowtune: warning: 'a' was trained on 1 of the 3 examples\n"


def test_what_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = checkpoint_of(tmp_path / "a", numbered([1]), episodes=1)
    second = checkpoint_of(tmp_path / "b", numbered([2]), episodes=1, source=first)
    shutil.rmtree(tmp_path / "a")
    tell_trained_on("b", second, numbered([1]))
    said = capsys.readouterr().err
    assert "'b' may have been trained on some of the examples: " in said
    assert str(tmp_path / "a") in said


def test_a_best_checkpoint_is_not_judged_by_what_chose_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = numbered(range(10, 13))
    sha256 = digest_of_all(example_digests(held_out, pytest.fail))
    stored = {"path": "/data", "split": "dev", "examples": 3, "examples_sha256": sha256}
    made = checkpoint_of(tmp_path / "a", numbered([1]), episodes=1, held_out=stored)
    more = numbered(range(10, 15))
    for examples, path in ((more, Path("/data")), (held_out, None)):  # here, or copied elsewhere
        tell_chosen_by("a@best", made, examples, path, "dev")
        said = capsys.readouterr().err
        count = len(examples)
        assert f"'a@best' was chosen as the best by 3 of the {count} examples, so its" in said
    tell_chosen_by("a@1", made, more, Path("/data"), "dev")
    tell_chosen_by("a@best", made, more, Path("/data"), "test")
    assert capsys.readouterr().err == ""


class HeldOutTask(FlowTask):
    name = "t"
    splits = ("train", "dev")

    def examples(self, source: Path | None, split: str) -> list[Example]:
        return numbered([1, 5], gold="no")


def held_out(trained: list[Example], source: Path | None = None) -> Any:
    digests = example_digests(trained, pytest.fail)
    task = HeldOutTask.__new__(HeldOutTask)
    settings = EvaluateSettings(every=1)
    return read_held_out(task, settings, TrainingData({**NUMBERS, "path": None}, digests), source)


def test_held_out_examples_are_none_that_a_run_begins_with_knowledge_of(tmp_path: Path) -> None:
    source = checkpoint_of(tmp_path / "a", numbered([1]), episodes=1)
    assert len(held_out(numbered([2])).examples) == 2
    with pytest.raises(UsageError) as raised:
        held_out(numbered([2]), source)
    assert f"1 of the 2 examples to evaluate on were trained on by {tmp_path / 'a'}, from" in str(
        raised.value
    )
    later = checkpoint_of(tmp_path / "b", numbered([1]), episodes=0)
    assert len(held_out(numbered([2]), later).examples) == 2


def test_held_out_examples_with_other_labels_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    held_out(numbered([1, 2]))
    assert (
        "warning: 1 of the 2 examples to evaluate on have the inputs of examples that are trained"
        " on, with other labels: '1'" in capsys.readouterr().err
    )
