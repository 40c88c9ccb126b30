"""The wheels hold what an installation without the sources needs: data, entry points, extras."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import version

import pytest

from flowtune_cli.config.layers import tomllib
from support.markdown_blocks import REPOSITORY

PACKAGES = {
    "flowtune": (".", "flowtune_cli"),
    "flowtune-musique": ("plugins/musique", "flowtune_musique"),
    "flowtune-smollm2": ("plugins/smollm2", "flowtune_smollm2"),
    "flowtune-toyqa": ("plugins/toyqa", "flowtune_toyqa"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """The wheel of each distribution, built offline from a copy of what it is made of."""
    # Not imported: it refuses to be, once another package has imported distutils.
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77")
    folder = tmp_path_factory.mktemp("wheels")
    sources = []
    for name, (place, _) in PACKAGES.items():
        source = folder / "sources" / name
        shutil.copytree(
            REPOSITORY / place / "src",
            source / "src",
            ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"),
        )
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            if (REPOSITORY / place / file).exists():
                shutil.copy(REPOSITORY / place / file, source)
        sources.append(str(source))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [zipfile.ZipFile(path) for path in folder.glob("*.whl")]
    return {_metadata(wheel)["Name"]: wheel for wheel in found}


def _read(wheel: zipfile.ZipFile, file: str) -> str:
    """A file of the wheel's metadata."""
    [name] = [name for name in wheel.namelist() if name.endswith(f".dist-info/{file}")]
    return wheel.read(name).decode()


def _metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(_read(wheel, "METADATA"))


def test_every_file_of_the_sources_is_in_the_wheel(wheels: dict[str, zipfile.ZipFile]) -> None:
    assert wheels.keys() == PACKAGES.keys()
    for name, (place, package) in PACKAGES.items():
        source = REPOSITORY / place / "src"
        files = {
            str(path.relative_to(source).as_posix())
            for path in (source / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        packed = {file for file in wheels[name].namelist() if ".dist-info/" not in file}
        assert packed == files, name


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_has_its_entry_points_and_requirements(
    wheels: dict[str, zipfile.ZipFile], name: str
) -> None:
    text = (REPOSITORY / PACKAGES[name][0] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    points = _read(wheels[name], "entry_points.txt")
    assert "[flowtune]" in points
    for point, module in project["entry-points"]["flowtune"].items():
        assert f"{point} = {module}" in points
        assert f"{module.replace('.', '/')}.py" in wheels[name].namelist()
    required = _metadata(wheels[name]).get_all("Requires-Dist")
    assert required is not None
    if name == "flowtune":
        assert not [line for line in required if line.startswith("gguf") and "extra" not in line]
        assert [line for line in required if line.startswith("gguf") and 'extra == "gguf"' in line]
    else:
        assert [line for line in required if line.startswith("flowtune")]
