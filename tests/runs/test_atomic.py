"""Exports are there whole or not at all, and over nothing unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowtune_cli.flow.errors import UsageError
from flowtune_cli.runs.atomic import new_directory, new_file


def test_a_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with new_file(path, overwrite=False) as file:
        file.write("one \ud800\n")
        assert not path.exists()
    assert path.read_bytes() == b"one \\ud800\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"

    def failing() -> None:
        if kind == "file":
            with new_file(path, overwrite=True) as file:
                file.write("half")
                raise ZeroDivisionError
        with new_directory(path, overwrite=True, marker="marker") as directory:
            (directory / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_when_an_export_fails(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def failing() -> None:
        with new_file(path, overwrite=True) as file:
            file.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert path.read_text() == "old"
    with pytest.raises(UsageError, match="--overwrite"), new_file(path, overwrite=False):
        pass
    with new_file(path, overwrite=True) as file:
        file.write("new")
    assert path.read_text() == "new"


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(UsageError, match="--overwrite"), new_file(path, overwrite=False):
        path.write_text("other")
    assert path.read_text() == "other"


def test_a_directory_replaces_only_one_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with new_directory(path, overwrite=False, marker="marker") as directory:
        (directory / "marker").touch()
        (directory / "old").touch()
        assert not path.exists()
    with (
        pytest.raises(UsageError, match="--overwrite"),
        new_directory(path, overwrite=False, marker="marker"),
    ):
        pass
    with new_directory(path, overwrite=True, marker="marker") as directory:
        (directory / "new").touch()
    assert [file.name for file in path.iterdir()] == ["new"]
    with (
        pytest.raises(UsageError, match="flowtune did not make it"),
        new_directory(path, overwrite=True, marker="marker"),
    ):
        pass
    assert (path / "new").exists()
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with new_directory(path, overwrite=False, marker="marker") as directory:
        (directory / "new").touch()
    assert (path / "new").exists()


def test_a_file_is_no_directory_and_a_directory_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match="is not a directory"),
        new_directory(tmp_path / "file", overwrite=True, marker="marker"),
    ):
        pass
    with pytest.raises(UsageError, match="is a directory"), new_file(tmp_path, overwrite=True):
        pass


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="no/out is in a directory that does not exist"),
        new_file(tmp_path / "no" / "out", overwrite=False),
    ):
        pass
