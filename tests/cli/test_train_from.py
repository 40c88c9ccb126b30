"""``flowtune train --from``: a new run from what another has learned, as the paper does on dev."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from support.installed_plugins import Site
from support.runs_compared import learned, press_ctrl_c, rows

Run = Callable[..., Any]
FILE = "adapter_model.safetensors"


@pytest.fixture
def train(letters: Site, run: Run) -> Run:
    """Trains "letters"; there is a run "a" already, in which the gate has passed."""
    run("train", "letters", "--limit", "4", "--name", "a")
    return lambda *arguments: run("train", *arguments)


def state(path: str) -> Any:
    return json.loads(Path(path, "state.json").read_text())


def test_averages_begin_anew(train: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = state("runs/a/checkpoints/0000004")
    assert old["progressive"]["best"] is not None
    before = learned(Path("runs/a")), rows(Path("runs/a"))
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 1)
        assert train("letters", "--split", "test", "--from", "a", "--name", "b").code == 130
    new = state("runs/b/checkpoints/0000000")
    assert new["position"] == {"episodes": 0, "batches": 0, "failed": 0, "played": 0}
    assert (new["progressive"]["best"], new["progressive"]["overall"]) == (None, {})
    assert new["progressive"]["gate"] == old["progressive"]["gate"]
    assert (learned(Path("runs/a")), rows(Path("runs/a"))) == before


@pytest.mark.parametrize(
    ("key", "anew"),
    [
        ("learning.optimizer", ("draft", "write")),
        ("tasks.letters.nodes.draft.optimizer", ("draft",)),
    ],
)
def test_optimizers_of_another_kind_begin_anew_and_that_is_said(
    train: Run, monkeypatch: pytest.MonkeyPatch, key: str, anew: tuple[str, ...]
) -> None:
    other = ("--set", f"{key}=adam")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 1)
        result = train("letters", "--split", "test", "--from", "a", "--name", "b", *other)
    assert result.code == 130
    for node in ("draft", "write"):
        [said] = [line for line in result.err.splitlines() if f"node '{node}' goes on" in line]
        fresh = "the optimizer state starts fresh: the checkpoint's is of 'cocob'" in said
        kept = load_file(Path(f"runs/b/checkpoints/0000000/optimizers/{node}.safetensors"))
        assert fresh is (kept == {}) is (node in anew)


def test_the_new_run_needs_the_old_one_no_more_and_learns_on(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("letters", "--split", "test", "--from", "a", "--name", "whole")
    assert whole.code == 0
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 2)
        train("letters", "--split", "test", "--from", "a", "--name", "cut")
    shutil.rmtree("runs/a")
    assert train("--resume", "cut").code == 0
    assert list(learned(Path("runs/cut")).values()) == list(learned(Path("runs/whole")).values())


def test_with_no_reference_update_they_stay_what_was_learned_before(train: Run) -> None:
    """The references are the trained adapters, and not where these began."""
    source = Path("runs/a/checkpoints/0000004/adapters")
    fixed = ("--set", "learning.reference_weight=0.0")
    assert train("letters", "--split", "test", "--from", "a", "--name", "b", *fixed).code == 0
    end = max(Path("runs/b/checkpoints").iterdir()) / "adapters"
    for node in ("draft", "write"):
        held = (end / f"reference-of-{node}" / FILE).read_bytes()
        assert held == (source / node / FILE).read_bytes()
        assert held != (source / f"reference-of-{node}" / FILE).read_bytes()
        assert held != (end / node / FILE).read_bytes()


def test_killed_before_its_first_checkpoint_it_still_begins_with_what_was_learned(
    train: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowtune_cli.training.loop import Trainer

    train("letters", "--split", "test", "--from", "a", "--name", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "start_from", lambda self, source, renamed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train("letters", "--split", "test", "--from", "a", "--name", "cut")
    assert train("--resume", "cut").code == 0
    assert list(learned(Path("runs/cut")).values()) == list(learned(Path("runs/whole")).values())


FROZEN = ("--set", "tasks.letters.nodes.draft.learn=nothing")


def folder(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.glob("*"))}


def drafts(run: Run, *arguments: str) -> str:
    done = run("play", "letters", "--json", *arguments)
    assert done.code == 0, done.err
    steps = json.loads(done.out)["steps"]
    return next(step["output"] for step in steps if step["node"] == "draft")


def test_a_node_that_learns_nothing_plays_and_keeps_what_it_has_learned(
    train: Run, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder(Path("runs/a/checkpoints/0000004/adapters/draft"))
    begun = ("letters", "--split", "test", "--from", "a")
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 2)
        assert train(*begun, "--name", "b", *FROZEN).code == 130
    assert train("--resume", "b").code == 0
    end = max(Path("runs/b/checkpoints").iterdir())
    assert end.name == "0000005"
    assert folder(end / "adapters/draft") == before
    for kind in ("optimizers/draft", "optimizers/write"):
        file = f"{kind}.safetensors"
        old = Path("runs/a/checkpoints/0000004", file).read_bytes()
        assert ((end / file).read_bytes() == old) is (kind == "optimizers/draft")
    moved = folder(end / "adapters/write")[FILE]
    assert moved != Path("runs/a/checkpoints/0000004/adapters/write", FILE).read_bytes()

    assert run("export", "b", "--adapters", "exported").code == 0
    assert Path("exported/draft", FILE).read_bytes() == before[FILE]

    trained = drafts(run, "--run", "a")
    assert trained != drafts(run)
    assert drafts(run, "--run", "b") == drafts(run, "--run", "a", *FROZEN) == trained

    # It can learn on from there.
    assert (
        train(
            *begun[:3],
            "--from",
            "b",
            "--name",
            "c",
            "--set",
            "tasks.letters.nodes.draft.learn=preferences",
        ).code
        == 0
    )
    assert folder(max(Path("runs/c/checkpoints").iterdir()) / "adapters/draft") != before


def test_a_node_that_never_learned_plays_the_base_model(train: Run, run: Run) -> None:
    assert train("letters", "--name", "b", *FROZEN).code == 0
    end = max(Path("runs/b/checkpoints").iterdir())
    assert sorted(path.name for path in (end / "adapters").iterdir()) == [
        "check",
        "reference-of-check",
        "reference-of-write",
        "write",
    ]
    assert drafts(run, "--run", "b") == drafts(run)
    learns = ("--set", "tasks.letters.nodes.draft.learn=preferences")
    begun = train("letters", "--from", "b", "--name", "c", *learns)
    assert begun.code == 0
    assert "node 'draft' has no adapter in the run: it begins anew" in begun.err
    assert "node 'write' goes on with its adapter (" in begun.err
