"""Users' text files: UTF-8 in what forms it comes, and what is said of any other file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
from pathlib import Path

import pytest

from flowtune_cli import DataError, read_text, read_text_lines

TEXT = '{"a": "é\u2028"}\r\n\n{"b": 2}'
LINES = [(1, '{"a": "é\u2028"}\r\n'), (2, "\n"), (3, '{"b": 2}')]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.jsonl"


FORMS = {
    "plain": TEXT.encode(),
    "byte order mark": TEXT.encode("utf-8-sig"),
    "gzip": gzip.compress(TEXT.encode(), mtime=0),
    "byte order mark in gzip": gzip.compress(TEXT.encode("utf-8-sig"), mtime=0),
    "two members of gzip": gzip.compress(TEXT[:9].encode(), mtime=0)
    + gzip.compress(TEXT[9:].encode(), mtime=0),
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
def test_one_text_in_all_its_forms(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert list(read_text_lines(file)) == LINES
    assert read_text(file) == TEXT


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_a_file_without_text(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert list(read_text_lines(file)) == []


def test_a_mark_within_the_text_is_a_part_of_it(file: Path) -> None:
    file.write_text("a\n\ufeffb\n", encoding="utf-8")
    assert [line for _, line in read_text_lines(file)] == ["a\n", "\ufeffb\n"]


@pytest.mark.parametrize("content", [FORMS["byte order mark"], FORMS["gzip"]])
def test_a_pipe_is_read_once(tmp_path: Path, content: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert read_text(pipe) == TEXT
    writer.join()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a".encode("utf-16"), r"a\.jsonl: the file is UTF-16\. .*iconv -f UTF-16 -t UTF-8 a\.js"),
        (b"\xfe\xff\x00a", "the file is UTF-16"),
        ("a".encode("utf-32"), "the file is UTF-32"),
        (b"\x00\x00\xfe\xff\x00\x00\x00a", "the file is UTF-32"),
        ("abc".encode("utf-16-le"), "binary file, or UTF-16 or UTF-32 without a byte order mark"),
        (gzip.compress("a".encode("utf-16"), mtime=0), "the file is UTF-16"),
        (b"\x28\xb5\x2f\xfd\x04\x00", r"compressed by zstd\. .*: zstd -d a\.jsonl"),
        (bz2.compress(b"a"), "compressed by bzip2"),
        (lzma.compress(b"a"), "compressed by xz"),
        (b"PK\x03\x04\x14", "a zip archive"),
        (b"\x7fELF\x02\x01\x01\x00", "a binary file"),
        (gzip.compress(b"a" * 999, mtime=0)[:-9], "its gzip compression is damaged"),
        (b"\x1f\x8b and no more", "its gzip compression is damaged"),
        (b"ok\ncaf\xe9\n", r"a\.jsonl:2: not UTF-8: byte 0xe9 at position 4\. Save"),
    ],
)
def test_any_other_file_is_named(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_text(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: cannot be read: No such file"):
        read_text(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_text(tmp_path / ("n" * 300))
