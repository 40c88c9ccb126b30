"""Checkpoints are written whole or not at all, and hold all that a run needs to go on."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from flowtune_cli.config.settings import LearningSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.flow.node import TextDatum
from flowtune_cli.learning.learner import Learner
from flowtune_cli.learning.node_optimizers import NodeOptimizers
from flowtune_cli.learning.optimizers import adam
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tokens import Tokens
from flowtune_cli.training.checkpoint import (
    Position,
    checkpoints,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from flowtune_cli.training.progressive import Progressive
from support.fake_engine import writer
from support.tiny import make_adapters, plain, randomize, same, state
from support.tiny_training import Urn


def optimizers_of(adapters: Adapters) -> NodeOptimizers:
    nodes = {name: writer(name) for name in "ab"}
    return NodeOptimizers(adapters, LearningSettings(), nodes, {"cocob": adam})


class State:
    """All that a checkpoint holds."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.adapters = make_adapters(loaded, {"a": {"x": 1.5, "y": -2.0}, "b": {}})
        tokens = Tokens(loaded.tokenizer, loaded.context)
        self.learner = Learner(
            PrefixCache(self.adapters, Limits()),
            tokens,
            LearningSettings(),
            optimizers_of(self.adapters),
            Limits(),
        )
        self.progressive = Progressive(gate="f1")
        self.nodes = [Urn()]

    def learn(self) -> None:
        self.learner.update("a", {"a": [TextDatum("a", plain("x"), "y")]})
        self.progressive.add({"f1": 0.3, "em": None})
        self.nodes[0].likes["red"] += 0.1

    def save(self, directory: Path, episodes: int, keep: int = 2, best: int | None = None) -> Path:
        return save_checkpoint(
            directory,
            position=Position(episodes, 3, 1, 17),
            adapters=self.adapters,
            learner=self.learner,
            nodes=self.nodes,
            progressive=self.progressive,
            keep=keep,
            best=best,
        )

    def load(self, directory: Path, **more: Any) -> Position:
        position, self.progressive = load_checkpoint(
            directory,
            **{"adapters": self.adapters, "learner": self.learner, "nodes": self.nodes, **more},
        )
        return position

    def optimizer(self) -> list[torch.Tensor]:
        states = self.learner.optimizers["a"].state_dict()["state"]
        return [torch.as_tensor(each[key]) for each in states.values() for key in sorted(each)]


@pytest.fixture
def trained(tiny_model: LoadedModel) -> State:
    made = State(tiny_model)
    made.learn()
    return made


@pytest.fixture
def fresh(trained: State) -> State:
    """As at the start of another process."""
    other = copy.deepcopy(trained)
    randomize(other.adapters, 5)
    other.learner = Learner(
        PrefixCache(other.adapters, Limits()),
        other.learner.losses.tokens,
        other.learner.settings,
        optimizers_of(other.adapters),
        Limits(),
    )
    other.progressive = Progressive()
    other.nodes = [Urn()]
    return other


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file()
    }


def test_what_is_saved_is_loaded(trained: State, fresh: State, tmp_path: Path) -> None:
    path = trained.save(tmp_path, 12)
    assert path == tmp_path / "0000012"
    assert fresh.load(path) == Position(12, 3, 1, 17)
    for name in trained.adapters.versions:
        assert same(state(fresh.adapters, name), state(trained.adapters, name))
    assert same(fresh.optimizer(), trained.optimizer())
    assert fresh.optimizer()
    assert fresh.progressive == trained.progressive
    assert fresh.nodes[0].likes == trained.nodes[0].likes == {"red": 0.1, "blue": 0.0}


def test_for_playing_no_learner_is_needed(trained: State, fresh: State, tmp_path: Path) -> None:
    path = trained.save(tmp_path, 12)
    fresh.load(path, learner=None)
    assert fresh.optimizer() == []
    assert same(state(fresh.adapters, "a"), state(trained.adapters, "a"))


def test_the_newest_are_kept(trained: State, tmp_path: Path) -> None:
    for episodes in (4, 8, 12, 100):
        trained.save(tmp_path, episodes)
    assert [path.name for path in checkpoints(tmp_path)] == ["0000012", "0000100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000012", "0000100"]
    trained.save(tmp_path, 104, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["0000104"]


def test_a_checkpoint_that_is_there_is_left_as_it_is(trained: State, tmp_path: Path) -> None:
    before = files(trained.save(tmp_path, 4))
    trained.learn()
    assert files(trained.save(tmp_path, 4)) == before


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error")]
)
def test_a_failing_save_leaves_the_older_one_and_nothing_else(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = files(trained.save(tmp_path, 4))

    def fail(directory: Path) -> None:
        (directory / "begun").parent.mkdir()
        (directory / "begun").write_text("half of it")
        raise error

    monkeypatch.setattr(trained.learner.optimizers, "save", fail)
    message = "0000008 could not be written: .*(No space|I/O error).*make room.*--resume"
    with pytest.raises(FlowtuneError, match=message):
        trained.save(tmp_path, 8, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["0000004"]
    assert files(tmp_path / "0000004") == before


def test_a_bug_is_not_taken_for_a_full_disk(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained.learner.optimizers, "save", lambda directory: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained.save(tmp_path, 8)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(
    trained: State, tmp_path: Path
) -> None:
    done = trained.save(tmp_path, 4)
    # Killed before the last rename, when all was written; and earlier, long ago.
    done.rename(tmp_path / ".0000008.partial")
    (tmp_path / ".0000004.partial" / "adapters").mkdir(parents=True)
    assert checkpoints(tmp_path) == []
    assert not is_checkpoint(tmp_path / ".0000008.partial")
    trained.save(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["0000004"]


def test_a_directory_without_its_state_is_written_again(trained: State, tmp_path: Path) -> None:
    (tmp_path / "0000004" / "adapters").mkdir(parents=True)
    assert checkpoints(tmp_path) == []
    assert is_checkpoint(trained.save(tmp_path, 4))


def test_everything_is_on_the_disk_before_it_has_its_name(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        written = {str(file) for file in Path(source).rglob("*") if file.is_file()}
        assert written <= set(synced)
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("cannot tell which file a descriptor is of")
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", rename)
    trained.save(tmp_path, 4)
    assert synced[-1] == str(tmp_path)


def test_no_checkpoints_where_there_is_no_directory(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", [None, "", "{half of"])
def test_what_is_no_checkpoint_is_said(trained: State, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(UsageError, match="is not a checkpoint"):
        trained.load(tmp_path)


def test_the_state_is_json_that_a_person_can_read(trained: State, tmp_path: Path) -> None:
    written = json.loads((trained.save(tmp_path, 12) / "state.json").read_text())
    assert written["position"] == {"episodes": 12, "batches": 3, "failed": 1, "played": 17}
    assert written["nodes"] == {"urn": {"red": 0.1, "blue": 0.0}}


def test_a_state_that_json_cannot_express_is_blamed_on_its_node(
    trained: State, tmp_path: Path
) -> None:
    trained.nodes[0].likes["red"] = float("nan")
    with pytest.raises(FlowtuneError, match="node 'urn', which learns by itself, has a state"):
        trained.save(tmp_path, 4)
    assert list(tmp_path.iterdir()) == []


def test_the_best_is_not_deleted(trained: State, tmp_path: Path) -> None:
    for episodes in (4, 8, 12, 16):
        trained.save(tmp_path, episodes, keep=2, best=4)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [4, 12, 16]
    trained.save(tmp_path, 20, keep=1, best=20)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [20]


def test_a_node_that_learns_by_itself_is_not_played_as_it_began(
    trained: State, fresh: State, tmp_path: Path
) -> None:
    path = trained.save(tmp_path, 12)
    fresh.nodes[0].name = "other"
    with pytest.raises(UsageError, match="has nothing of node 'other', which learns by itself"):
        fresh.load(path, learner=None)
