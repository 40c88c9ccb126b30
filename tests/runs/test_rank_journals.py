"""The journals of several processes are put together, wherever that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.flow.effect import EffectEnd
from flowtune_cli.runs.journal import Journal
from flowtune_cli.runs.rank_journals import merge_journals, rank_journal


def write(path: Path, *entries: tuple[int, int]) -> None:
    with path.open("a") as file:
        for episode, value in entries:
            file.write(f'[{episode}, "result", ["f", "{value}"], {value}]\n')


def known(path: Path) -> dict[int, list[int]]:
    """By episode, the results that a journal has of it."""
    journal = Journal(path, 0)
    found = {
        number: [end.result for end in journal.episode(number).ends.values()]
        for number in range(10)
    }
    journal.close()
    return {number: results for number, results in found.items() if results}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    write(path, (0, 1), (1, 2))
    write(rank_journal(path, 1), (1, 3), (2, 4))
    write(rank_journal(path, 10), (3, 5))
    with rank_journal(path, 2).open("w") as file:
        file.write('[4, "result", ["f", "6"], 6]\n[4, "resu')
    return path


ALL = {0: [1], 1: [2, 3], 2: [4], 3: [5], 4: [6]}


def test_what_all_have_written_is_read(journal: Path) -> None:
    merge_journals(journal)
    assert [file.name for file in journal.parent.iterdir()] == ["journal.jsonl"]
    assert known(journal) == ALL
    merge_journals(journal)
    assert known(journal) == ALL


@pytest.mark.parametrize("calls", range(4))
def test_killed_at_any_moment_it_goes_on(
    journal: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """After so many files were deleted; the last one is before the whole is put in place."""
    unlink, replace = Path.unlink, Path.replace
    left = [calls]

    def dies(then: object) -> object:
        def call(self: Path, *given: object) -> object:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return then(self, *given)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies(unlink))
        patch.setattr(Path, "replace", dies(replace))
        with pytest.raises(KeyboardInterrupt):
            merge_journals(journal)
    merge_journals(journal)
    assert known(journal) == ALL
    lines = journal.read_text().splitlines()
    assert len(lines) == len(set(lines)), "an entry came twice"


def test_a_run_of_one_process_has_nothing_to_put_together(tmp_path: Path) -> None:
    merge_journals(tmp_path / "journal.jsonl")
    assert not list(tmp_path.iterdir())


def test_others_write_files_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, (5, 1))
    journal = Journal(path, 5, rank_journal(path, 1))
    assert journal.episode(5).ends == {("f", "1"): EffectEnd(1)}
    before = path.read_bytes()
    journal.episode(6).end(("f", "2"), EffectEnd(2))
    assert path.read_bytes() == before
    assert known(rank_journal(path, 1)) == {6: [2]}
    journal.forget(7)
    assert path.read_bytes() == before
    assert not rank_journal(path, 1).exists()
