"""Writes a prediction file, one JSON line for each example, that appears when it is complete.

Until then the records are in ``PATH.partial``, from which a later process can resume. For a device
or pipe they are in a temporary file, and nothing is kept.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..flow.errors import FlowtuneError, UsageError
from .atomic import read_json, write_bytes, write_json
from .example_digests import ExampleDigest, difference
from .lock import try_lock
from .output_path import check_output, is_stream


class PredictionWriter:
    """Collects records in any order, and writes them in the order of the examples.

    ``PATH.partial.key`` beside ``PATH.partial`` says whether a later process makes the same
    predictions: for the same examples in the same order, in the same way. ``finish`` turns the
    records into the lines of the file.

    Args:
        path: the complete file; replaces an existing one only when it is complete.
        expected: the examples' digests, in the order of the lines.
        made_by: identifies predictions that may be mixed, such as run and checkpoint.
        files: digests, by name, of files that they depend on, too.

    Attributes:
        done: the number of records written, with those of a resumed file.
        changed: the names of ``files`` that were others when a resumed file was begun.
        partial: where they are; None for a device or pipe.

    Raises:
        UsageError: the partial file has other predictions, or another process writes to it.
        FlowtuneError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        expected: Sequence[ExampleDigest],
        made_by: str = "",
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self.changed: list[str] = []
        self.partial: Path | None = None
        self.done = 0
        self._expected = len(expected)
        self._pending: dict[int, bytes] = {}
        self._file: Any
        # Unbuffered: closing the file after a failed write does not try it again.
        try:
            if is_stream(path):
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                return
            self.partial, self._key = _partial(path)
            self._file = open(self.partial, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from error
        try:
            if not try_lock(self._file.fileno()):
                raise UsageError(f"another process is writing {self.partial}; let it finish first")
            if self.partial.stat().st_size == 0:
                _write_key(self._key, expected, made_by, files)
            self._check_key(expected, made_by, files)
            self._read_back()
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, position: int, record: Mapping[str, Any]) -> None:
        """Write the record of the example at ``position`` of ``expected``, once.

        Raises:
            UsageError: the record is not made of JSON values.
            FlowtuneError: the file cannot be written.
        """
        self.write_encoded(position, encode(record, position))

    def write_encoded(self, position: int, line: bytes) -> None:
        """As ``write``, a record that another process has turned into its line, by ``encode``."""
        if not self.done <= position < self._expected or position in self._pending:
            raise ValueError(f"position {position} is out of range or already written")
        self._pending[position] = line
        lines: list[bytes] = []
        while self.done + len(lines) in self._pending:
            lines.append(self._pending.pop(self.done + len(lines)))
        self._append(b"".join(lines))
        self.done += len(lines)

    def finish(self, to_lines: Callable[[list[Any]], Iterable[Mapping[str, Any]]] = list) -> None:
        """Write the complete file.

        Args:
            to_lines: makes its lines from all records, in the order of the examples.

        Raises:
            FlowtuneError: records are missing, or the file cannot be written. The partial file is
                kept then, and also if ``to_lines`` raises an exception.
        """
        if self.done < self._expected:
            raise FlowtuneError(self.how_to_go_on)
        records = [json.loads(line) for line in self._written()]
        write_lines(self.path, to_lines(records))
        try:
            self._file.close()
            if self.partial is not None:
                self.partial.unlink()
                self._key.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    @property
    def how_to_go_on(self) -> str:
        """What there is if this process stops here, and how to go on, in words."""
        if self.partial is None:
            return f"{self.path} is a device or pipe, so nothing is kept: start again."
        return (
            f"{self.partial} has {self.done} of {self._expected} lines; run the same command again"
            " to resume."
        )

    def close(self) -> None:
        """Stop here; a later process can resume."""
        self._file.close()

    def _check_key(
        self, expected: Sequence[ExampleDigest], made_by: str, files: Mapping[str, str]
    ) -> None:
        advice = f"Delete it to start again, or write to another file than {self.path}."
        if not self._key.exists():
            raise UsageError(
                f"{self._key.name} is missing, so the lines of {self.partial} are of unknown"
                f" origin. {advice}"
            )
        try:
            stored = read_json(self._key)
            examples = [ExampleDigest(*digest) for digest in stored["examples"]]
            before, files_before = stored["made_by"], stored.get("files", {})
        except (LookupError, TypeError) as error:
            raise UsageError(
                f"{self._key} does not say what the lines of {self.partial} are of. {advice}"
            ) from error
        found = difference(examples, expected)
        if found is not None:
            raise UsageError(f"{self.partial} is of other data: {found}. {advice}")
        if before != made_by:
            raise UsageError(f"{self.partial} was made by {before!r}, not by {made_by!r}. {advice}")
        self.changed = [name for name in files if files_before.get(name, "") != files[name]]

    def _read_back(self) -> None:
        """Count the existing lines, and drop an incomplete last one."""
        end = 0
        for line in self._written():
            if not line.endswith(b"\n"):
                break
            try:
                json.loads(line)
            except ValueError as error:
                raise UsageError(
                    f"{self.partial}, line {self.done + 1}, is not JSON ({error}). Delete the"
                    " file to start again."
                ) from error
            self.done += 1
            end += len(line)
        if self.done > self._expected:
            raise UsageError(
                f"{self.partial} has {self.done} lines for {self._expected} examples. Delete it to"
                " start again."
            )
        self._file.truncate(end)

    def _written(self) -> Iterator[bytes]:
        """The lines of the file so far."""
        with open(os.dup(self._file.fileno()), "rb") as lines:
            lines.seek(0)
            yield from lines

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> FlowtuneError:
        return FlowtuneError(
            f"cannot write {self.path}: {error.strerror or error}. {self.how_to_go_on}"
        )


def check_predictions_path(path: Path, *, overwrite: bool) -> None:
    """Check that ``PredictionWriter`` can write there, as far as that is known beforehand.

    Raises:
        UsageError: it cannot; says why.
    """
    check_output(path, overwrite=overwrite)
    if not is_stream(path):
        for needed in _partial(path):
            try:
                needed.exists()
            except OSError as error:
                raise UsageError(
                    f"cannot write {needed}, which is there until {path} is complete:"
                    f" {error.strerror}. Choose another name"
                ) from None


def _partial(path: Path) -> tuple[Path, Path]:
    path = path.absolute()  # as messages show it
    return path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.partial.key")


def _write_key(
    path: Path, expected: Sequence[ExampleDigest], made_by: str, files: Mapping[str, str]
) -> None:
    examples = [list(digest) for digest in expected]
    write_json(path, {"made_by": made_by, "files": dict(files), "examples": examples})


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON line for each of ``lines`` to ``path``, atomically.

    Raises:
        UsageError: a line is not made of JSON values.
        FlowtuneError: it cannot be written.
    """
    write_bytes(path, (encode(line, number) for number, line in enumerate(lines)))


def encode(prediction: Mapping[str, Any], position: int) -> bytes:
    """The line of a record or prediction.

    Raises:
        UsageError: it is not made of JSON values.
    """
    try:
        line = json.dumps(prediction, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the prediction at position {position} is not made of JSON values: {error}"
        ) from error
    # A lone surrogate has no UTF-8, but its replacement is its JSON escape.
    return line.encode("utf-8", "backslashreplace") + b"\n"
