"""Files cut into parts that can be carried, and joined again; each with its SHA-256.

Needs nothing but Python, as it runs where nothing is installed yet. A folder of parts holds, beside
the parts, ``manifest.json``, which lists all files of the bundle with all parts of each: so every
folder says what the others bring.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
PART_BYTES = 56 * 2**20
"""The most that a folder of parts holds."""


@dataclass(frozen=True)
class Part:
    """A piece of a file: ``folder/name``."""

    folder: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Carried:
    """A file that is carried.

    Args:
        name: where it goes in the state folder, such as ``wheels/x.whl``.
        requires: the versions of the wheel's distribution that will do, such as ``>=1.7``.
    """

    name: str
    bytes: int
    sha256: str
    parts: tuple[Part, ...]
    requires: str = ""


def split(
    files: Sequence[tuple[str, Path, str]], folder: Path, part_bytes: int = PART_BYTES
) -> list[Carried]:
    """Cut files, in this order, into the folders ``folder/1``, ``folder/2`` and so on.

    Args:
        files: the name, path and requirement of each.
    """
    if folder.exists():
        shutil.rmtree(folder)
    number, room = 1, part_bytes
    carried = []
    for name, path, requires in files:
        parts: list[Part] = []
        with path.open("rb") as file:
            while data := file.read(room):
                place = folder / str(number)
                place.mkdir(parents=True, exist_ok=True)
                part = Part(
                    str(number), f"{path.name}.{len(parts):03}", len(data), _sha256_of(data)
                )
                (place / part.name).write_bytes(data)
                parts.append(part)
                room -= len(data)
                if not room:
                    number, room = number + 1, part_bytes
        carried.append(Carried(name, path.stat().st_size, sha256(path), tuple(parts), requires))
    for place in folder.iterdir():
        write_json(place / MANIFEST, {"files": [asdict(file) for file in carried]})
    return carried


def read_manifest(path: Path) -> list[Carried]:
    """The files that a manifest lists."""
    found = json.loads(path.read_text(encoding="utf-8"))["files"]
    return [Carried(**{**file, "parts": tuple(Part(**p) for p in file["parts"])}) for file in found]


def take(folder: Path, kept: Path) -> Iterator[str]:
    """Copy the parts that lie in a folder, or in folders in it, to ``kept``.

    Yields:
        What is wrong with each part that does not have its sum; it is not kept.
    """
    for manifest in sorted(folder.rglob(MANIFEST)):
        for file in read_manifest(manifest):
            for part in file.parts:
                source = manifest.parent / part.name
                if part.folder != manifest.parent.name or not source.is_file():
                    continue
                if source.stat().st_size != part.bytes or sha256(source) != part.sha256:
                    yield f"{source} is damaged: carry it again"
                    continue
                target = kept / part.folder / part.name
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_name(f".{target.name}.{os.getpid()}")
                shutil.copyfile(source, temporary)
                temporary.replace(target)
        (kept / MANIFEST).write_bytes(manifest.read_bytes())


def join(file: Carried, kept: Path, state: Path) -> list[str]:
    """Put a file together from its parts, which are then removed.

    Returns:
        The parts that are missing; none if the file is there.

    Raises:
        ValueError: the file does not have its sum.
    """
    target = state / file.name
    places = [kept / part.folder / part.name for part in file.parts]
    if target.is_file() and target.stat().st_size == file.bytes:
        for path in places:
            path.unlink(missing_ok=True)
        return []
    missing = [str(path.relative_to(kept)) for path in places if not path.is_file()]
    if missing:
        return missing
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with temporary.open("wb") as joined:
        for path in places:
            joined.write(path.read_bytes())
    if sha256(temporary) != file.sha256:
        temporary.unlink()
        raise ValueError(f"{file.name} does not have its SHA-256 after joining")
    temporary.replace(target)
    for path in places:
        path.unlink()
    return []


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON through a temporary file: there is the old content or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
