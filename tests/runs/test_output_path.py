"""Output over links, devices and pipes, and under names that are too long."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.errors import FlowtuneError, UsageError
from flowtune_cli.runs.atomic import new_directory, new_file, write_bytes, write_json
from flowtune_cli.runs.example_digests import ExampleDigest
from flowtune_cli.runs.output_path import check_output
from flowtune_cli.runs.prediction_writer import (
    PredictionWriter,
    check_predictions_path,
    write_lines,
)

LONG = "n" * 300


def by_new_file(path: Path) -> None:
    with new_file(path, overwrite=True) as file:
        file.write("[1]\n")


def by_predictions(path: Path) -> None:
    with PredictionWriter(path, [ExampleDigest("a", "i", "g")]) as file:
        file.write(0, {"a": 1})
        file.finish(lambda records: [[1] for _ in records])  # type: ignore[misc]


WAYS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_bytes(path, [b"[1", b"]\n"]),
    "lines": lambda path: write_lines(path, [[1]]),  # type: ignore[list-item]
    "new file": by_new_file,
    "predictions": by_predictions,
}
ways = pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)


@ways
def test_a_link_stays_and_its_file_is_replaced(write: Any, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    link.symlink_to("far/target")
    for _ in range(2):  # the first time it leads to nothing
        write(link)
        assert link.is_symlink()
        assert target.read_bytes() == b"[1]\n"
        assert [file.name for file in target.parent.iterdir()] == ["target"]
        target.write_text("older and longer\n")
    with pytest.raises(UsageError, match="link exists"):
        check_output(link, overwrite=False)


def test_a_link_to_a_directory_stays_and_the_directory_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "far").mkdir()
    link.symlink_to("far")
    for name in ("one", "two"):
        with new_directory(link, overwrite=True, marker="marker") as directory:
            (directory / "marker").touch()
            (directory / name).touch()
    assert link.is_symlink()
    assert {file.name for file in (tmp_path / "far").iterdir()} == {"marker", "two"}
    assert {file.name for file in tmp_path.iterdir()} == {"link", "far"}


@ways
def test_links_in_a_circle_are_told_and_stay(write: Any, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FlowtuneError, match=r"cannot write .*Too many levels of symbolic links"):
        write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


@ways
def test_a_pipe_is_written_to_and_stays(write: Any, tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    check_predictions_path(pipe, overwrite=False)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert read == [b"[1]\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


@ways
def test_a_device_is_written_to_and_stays(write: Any, tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    check_predictions_path(device, overwrite=False)
    link = tmp_path / "link"
    link.symlink_to(device)
    for path in (device, link):
        write(path)
        assert stat.S_ISCHR(path.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [link, device]


@ways
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no files of open descriptors")
def test_an_open_file_is_written_to_where_it_stands(write: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb", buffering=0) as file:
        file.write(b"before\n")
        for directory in ("/dev/fd", "/proc/self/fd"):
            write(Path(directory, str(file.fileno())))
        file.write(b"after\n")
    assert log.read_bytes() == b"before\n[1]\n[1]\nafter\n"
    assert list(tmp_path.iterdir()) == [log]


def test_stdout_by_its_name(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    write_json(Path("/dev/stdout"), [1])
    print("after")
    assert capfd.readouterr().out == "before\n[\n  1\n]\nafter\n"


@ways
def test_a_name_that_is_too_long_is_told(write: Any, tmp_path: Path) -> None:
    for path in (tmp_path / LONG, tmp_path / LONG / "a"):
        with pytest.raises(FlowtuneError, match=r"cannot write .*File name too long"):
            write(path)
        for check in (check_output, check_predictions_path):
            with pytest.raises(UsageError, match=r"cannot write .*File name too long.*Choose"):
                check(path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    by_new_file(path)
    assert path.read_text() == "[1]\n"
    with new_directory(tmp_path / ("d" * 255), overwrite=False, marker="m") as directory:
        (directory / "m").touch()
    # Predictions need longer names until they are complete.
    with pytest.raises(
        UsageError, match=r"which is there until .* is complete: File name too long"
    ):
        check_predictions_path(tmp_path / ("p" * 250), overwrite=False)
    assert len(list(tmp_path.iterdir())) == 2
