"""Takes parts as they come, joins files that are complete, and makes wheels importable.

Wheels are unpacked into ``STATE/site``, unless the machine has a version that will do: nothing is
installed into the machine's Python. ``environment`` has the variables with which it all is found.
"""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from benchmarks.gpu.parts import MANIFEST, Carried, join, read_manifest, take
from benchmarks.gpu.sources import ROOT, SOURCES, write_metadata


def receive(folder: Path, state: Path) -> list[str]:
    """Take the parts in a folder into the state folder.

    Returns:
        What happened, for people: a line a file.
    """
    kept = state / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    lines = list(take(folder, kept))
    if not (kept / MANIFEST).exists():
        return [*lines, f"{folder} has no {MANIFEST}: carry a folder that 'make gpu-bundle' wrote"]
    for file in read_manifest(kept / MANIFEST):
        try:
            lacking = join(file, kept, state)
            if lacking:
                lines.append(f"{file.name}: waits for {', '.join(lacking)}")
            elif file.name.endswith(".whl"):
                lines.append(f"{file.name}: {_unpack(file, state)}")
            else:
                lines.append(f"{file.name}: is there")
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            lines.append(f"{file.name}: {error}")
    write_metadata(state / "site")
    return lines


def _unpack(file: Carried, state: Path) -> str:
    """Make a wheel importable; returns what was done."""
    wheel, site = state / file.name, state / "site"
    name, made, _, tags = parse_wheel_filename(wheel.name)
    done = site / f".{wheel.name}"
    if done.exists():
        return "unpacked before"
    try:
        present = version(name)
    except PackageNotFoundError:
        present = None
    if present is not None and SpecifierSet(file.requires).contains(present, prereleases=True):
        return f"the machine has {present}"
    if not tags & set(sys_tags()):
        return f"does not fit this Python: {', '.join(sorted(map(str, tags))[:3])}"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done.touch()
    return f"unpacked {made}" + (f" before the machine's {present}" if present else "")


def environment(state: Path) -> dict[str, str]:
    """The variables of a process that uses this working tree and what came in parts."""
    path = [str(ROOT), str(ROOT / "tests"), *map(str, SOURCES), str(state / "site")]
    inherited = os.environ.get("PYTHONPATH")
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*path, *([inherited] if inherited else [])]),
        "FLOWTUNE_CACHE": str(state / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if any((state / "data").glob("musique_*.jsonl")):
        found["FLOWTUNE_MUSIQUE_DATA"] = str(state / "data")
    return found
