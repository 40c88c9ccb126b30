"""The journal: what it keeps, whatever moment a process is killed at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from flowtune_cli.flow.effect import EffectEnd
from flowtune_cli.flow.errors import FlowtuneError
from flowtune_cli.runs.journal import Journal

Opened = Callable[..., Journal]

KEY = ("effect", "tools.search", '["x"]', "", "0")


@pytest.fixture
def opened() -> Iterator[Opened]:
    with ExitStack() as stack:
        yield lambda path, begin=0: stack.enter_context(closing(Journal(path, begin)))


def written(journal: Journal) -> Journal:
    journal.episode(3).end(KEY, EffectEnd('{"hits": ["ü"]}'))
    journal.episode(3).deliver((), (KEY,))
    journal.episode(3).deliver((1, 2), (KEY, ("a", "digest", "0")))
    journal.episode(4).end(KEY, EffectEnd(error=ConnectionError("no route")))
    return journal


def test_what_is_kept_is_read_again(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "journal.jsonl"
    written(opened(path))  # and the process is killed
    read = opened(path, 0)
    assert read.episode(3).ends[KEY].value() == {"hits": ["ü"]}
    assert read.episode(3).orders == {(): [(KEY,)], (1, 2): [(KEY, ("a", "digest", "0"))]}
    with pytest.raises(ConnectionError, match="no route"):
        read.episode(4).ends[KEY].value()
    assert read.episode(5).ends == {}
    read.episode(5).end(KEY, EffectEnd("1"))
    assert opened(path, 0).episode(5).ends[KEY].value() == 1


def test_earlier_episodes_are_forgotten(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "journal.jsonl"
    written(opened(path))
    read = opened(path, 4)
    assert read.episode(3).ends == {}
    assert 4 in {json.loads(line)[0] for line in path.read_text().splitlines()}
    assert 3 not in {json.loads(line)[0] for line in path.read_text().splitlines()}


def test_it_exists_while_there_is_something_in_it(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "journal.jsonl"
    opened(path, 0).close()
    assert not path.exists()
    journal = written(opened(path))
    assert path.exists()
    journal.forget(4)  # episode 4 has begun
    assert opened(path).episode(4).ends.keys() == {KEY}
    journal.forget(5)
    assert not path.exists()
    journal.episode(6).end(KEY, EffectEnd("2"))
    assert opened(path, 0).episode(6).ends[KEY].value() == 2


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_begun_is_left_out(tmp_path: Path, cut: int, opened: Opened) -> None:
    path = tmp_path / "journal.jsonl"
    written(opened(path))
    path.write_bytes(path.read_bytes()[:-cut])
    read = opened(path, 0)
    assert read.episode(4).ends == {}
    assert read.episode(3).ends[KEY].value() == {"hits": ["ü"]}
    read.episode(4).end(KEY, EffectEnd("3"))
    assert opened(path, 0).episode(4).ends[KEY].value() == 3


@pytest.mark.parametrize("line", ["{", "[1, 2]", '[1, "x", [], 0]', "null"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str, opened: Opened) -> None:
    path = tmp_path / "journal.jsonl"
    written(opened(path))
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(FlowtuneError, match=r"journal\.jsonl, line 1 is damaged.*Delete the file"):
        opened(path, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_disk_that_takes_nothing(tmp_path: Path, opened: Opened) -> None:
    journal = opened(tmp_path / "journal.jsonl")
    journal.path = Path("/dev/full")
    with pytest.raises(FlowtuneError, match="/dev/full cannot be written: No space left"):
        journal.episode(0).end(KEY, EffectEnd("1"))
