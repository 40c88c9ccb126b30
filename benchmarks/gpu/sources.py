"""Our own distributions in the working tree, found by others as if they were installed."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = (".", "plugins/musique", "plugins/smollm2", "plugins/toyqa")
SOURCES = [(ROOT / place / "src").resolve() for place in DISTRIBUTIONS]


def write_metadata(site: Path) -> None:
    """Write the names, versions and entry points of our distributions into a folder of packages.

    The code itself stays in the working tree.
    """
    for place in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"]
        name, version = project["name"], project["version"]
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        groups = dict(project.get("entry-points", {}))
        lines = []
        for group, entries in groups.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
        (folder / "entry_points.txt").write_text("\n".join(lines))
