"""JSON files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..flow.errors import FlowtuneError


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` by way of a file beside it.

    Raises:
        FlowtuneError: it cannot be written; names the file. What was there is there still.
        TypeError: ``value`` is not made of JSON values.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            # A lone surrogate has no UTF-8, but its replacement is its JSON escape.
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FlowtuneError(f"cannot write {path}: {error.strerror or error}") from error


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
