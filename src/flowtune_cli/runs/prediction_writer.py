"""A file of predictions, one JSON line an example, that is either whole or not there.

Until it is whole, what its lines are made of is in ``PATH.partial``, which a later process can go
on with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError, UsageError
from .atomic import read_json, write_json, write_whole
from .lock import try_lock


class PredictionFile:
    """Keeps what was predicted in the order of the examples, whatever order it comes in.

    Beside ``PATH.partial`` lies ``PATH.partial.ids``, which tells whether a later process makes
    the same predictions: of the same examples in the same order, made in the same way.

    Args:
        path: where the whole file will be; an older one is replaced, but only by a whole one.
        expected_ids: the examples' ids, in the order of the lines.
        made_by: tells predictions apart that must not be mixed, such as run and checkpoint.

    What the lines of the whole file are made of these is said only in the end, by ``finish``.

    Attributes:
        done: how many lines are written; a file that was reopened begins with those it has.

    Raises:
        UsageError: there is a partial file, and it is not one of these predictions; or another
            process writes it.
        FlowtuneError: the file cannot be written.
    """

    def __init__(self, path: Path, expected_ids: Sequence[str], made_by: str = "") -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.done = 0
        self._expected = len(expected_ids)
        self._waiting: dict[int, bytes] = {}
        self._ids = path.with_name(f"{path.name}.partial.ids")
        digest = hashlib.sha256(json.dumps(list(expected_ids)).encode()).hexdigest()
        key = {"examples": len(expected_ids), "ids_sha256": digest, "made_by": made_by}
        try:
            # Unbuffered: what could not be written is not tried again when the file is closed.
            self._file = open(self.partial, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._failed(error) from error
        try:
            if not try_lock(self._file.fileno()):
                raise UsageError(f"another process writes {self.partial}; wait until it has ended")
            if self.partial.stat().st_size == 0:
                write_json(self._ids, key)
            self._check_key(key)
            self._read_back()
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, position: int, prediction: Mapping[str, Any]) -> None:
        """Give the prediction of the example at ``position`` of ``expected_ids``, once.

        Raises:
            UsageError: the prediction is not made of JSON values.
            FlowtuneError: the file cannot be written.
        """
        if not self.done <= position < self._expected or position in self._waiting:
            raise ValueError(f"the prediction at position {position} is not wanted (any more)")
        self._waiting[position] = _encoded(prediction, position)
        lines: list[bytes] = []
        while self.done + len(lines) in self._waiting:
            lines.append(self._waiting.pop(self.done + len(lines)))
        self._append(b"".join(lines))
        self.done += len(lines)

    def finish(self, final: Callable[[list[Any]], Iterable[Mapping[str, Any]]] = list) -> None:
        """Write the whole file.

        Args:
            final: makes its lines of all that was given, in the order of the examples.

        Raises:
            FlowtuneError: lines are missing, or the file cannot be written. What was given is
                kept, as it is when ``final`` raises something.
        """
        if self.done < self._expected:
            raise FlowtuneError(
                f"{self.partial} has {self.done} of {self._expected} lines. Run the same command"
                " again to go on."
            )
        with open(self.partial, "rb") as lines:
            given = [json.loads(line) for line in lines]
        write_lines(self.path, final(given))
        try:
            self._file.close()
            self.partial.unlink()
            self._ids.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Stop here; what is written can be gone on with."""
        self._file.close()

    def _check_key(self, key: Mapping[str, Any]) -> None:
        other = f"Delete it to begin anew, or write to another file than {self.path}."
        if not self._ids.exists():
            raise UsageError(
                f"{self.partial} lacks its {self._ids.name}, so nothing says what its lines are."
                f" {other}"
            )
        stored = read_json(self._ids)
        if stored == key:
            return
        what = "is of other examples, or of the same in another order"
        if isinstance(stored, dict) and {**stored, "made_by": key["made_by"]} == key:
            what = f"was made by {stored['made_by']!r}, and not by {key['made_by']!r}"
        raise UsageError(f"{self.partial} {what}. {other}")

    def _read_back(self) -> None:
        """Count the lines that are there, and drop the last if it was torn."""
        end = 0
        with open(self.partial, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    json.loads(line)
                except ValueError as error:
                    raise UsageError(
                        f"{self.partial}, line {self.done + 1}, is not JSON ({error}). Delete the"
                        " file to begin anew."
                    ) from error
                self.done += 1
                end += len(line)
        if self.done > self._expected:
            raise UsageError(
                f"{self.partial} has {self.done} lines for {self._expected} examples. Delete it to"
                " begin anew."
            )
        self._file.truncate(end)

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> FlowtuneError:
        return FlowtuneError(
            f"cannot write {self.path}: {error.strerror or error}. What {self.partial.name} holds"
            " is kept: run the same command again to go on."
        )


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line each to ``path``, which is then whole; an older file stays until then.

    Raises:
        UsageError: a line is not made of JSON values.
        FlowtuneError: it cannot be written.
    """
    write_whole(path, (_encoded(line, number) for number, line in enumerate(lines)))


def _encoded(prediction: Mapping[str, Any], position: int) -> bytes:
    try:
        line = json.dumps(prediction, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the prediction at position {position} is not made of JSON values: {error}"
        ) from error
    # A lone surrogate has no UTF-8, but its replacement is its JSON escape.
    return line.encode("utf-8", "backslashreplace") + b"\n"
