"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts``, one after another, to ``path`` by way of a file beside it.

    Raises:
        FlowtuneError: it cannot be written; names the file. What was there is there still.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise FlowtuneError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` by way of a file beside it.

    Raises:
        FlowtuneError: it cannot be written; names the file. What was there is there still.
        TypeError: ``value`` is not made of JSON values.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    # A lone surrogate has no UTF-8, but its replacement is its JSON escape.
    write_whole(path, [text.encode("utf-8", "backslashreplace")])


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        FlowtuneError: the file cannot be read or is not JSON; names the file and the line.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise FlowtuneError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FlowtuneError(f"{path} is not JSON: {error}") from error
