"""The pages: up to date, with links that lead somewhere and commands that there are."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from benchmarks.gpu.__main__ import arguments as gpu_arguments
from flowtune_cli.cli.ls import KINDS
from flowtune_cli.cli.main import app, main
from flowtune_cli.config.resolve import resolve
from flowtune_cli.config.template import toml_value
from flowtune_cli.registry import Registry, load_registry
from support.fake_engine import FakeEngine, run_deviate
from support.installed_plugins import Site
from support.markdown_blocks import PAGES, REPOSITORY, anchors, blocks, commands, links

README = REPOSITORY / "README.md"
TUTORIAL = REPOSITORY / "docs" / "write-a-plugin.md"  # test_example_plugin.py runs its commands
GUIDE = REPOSITORY / "docs" / "train-your-program.md"  # cli/test_program_guide.py runs its commands
MUSIQUE = REPOSITORY / "docs" / "musique.md"

HALF = """
from flowtune_cli import hookimpl

def half(answer):
    return 0.5

@hookimpl
def register_rewards(register):
    register(half)
"""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_reference_is_up_to_date(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    written = generator.FILE.read_text(encoding="utf-8")
    assert generator.reference() == written, "run: python docs/reference.py"


def test_the_reference_knows_no_plugin_but_flowtune_itself(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)
    site.install("more", HALF)
    assert "half" in load_registry().entries("reward")
    assert generator.reference() == generator.FILE.read_text(encoding="utf-8")
    assert "half" in load_registry().entries("reward")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(REPOSITORY), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in (TUTORIAL, GUIDE)], ids=lambda page: page.name
)
def test_commands_exist(page: Path, registry: Registry) -> None:
    for environ, (program, *arguments) in commands(page):
        CHECKS[program](arguments, environ, registry)


def check_make(arguments: list[str], environ: dict[str, str], registry: Registry) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        pattern = rf"^{name} \?=|\$\(if \$\({name}\)" if is_variable else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), argument


def check_pip(arguments: list[str], environ: dict[str, str], registry: Registry) -> None:
    assert arguments[0] == "install"
    for option, value in itertools.pairwise(arguments):
        if option == "-c":
            assert (REPOSITORY / value).is_file(), value
        if option == "-e":
            assert (REPOSITORY / value / "pyproject.toml").is_file(), value
        if option == "--no-deps":
            assert value in (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def check_flowtune(arguments: list[str], environ: dict[str, str], registry: Registry) -> None:
    name, *rest = arguments
    command: Any = get_command(app)
    given = command.commands[name].make_context(name, rest).params
    if name == "ls":
        assert given["kind"] in KINDS
    elif name == "show":
        assert main(arguments) == 0
    elif ":" in (given.get("task") or ""):
        pass  # a function of the reader's own
    elif given.get("task"):
        task = registry.task(given["task"])
        assert given.get("split") in (None, *task.splits)
        overrides = given.get("set_") or []
        flags = {"preset": given.get("preset"), "model.name": given.get("model")}
        resolve(task, environ=environ, overrides=overrides, flags=flags, registry=registry)


def check_python(arguments: list[str], environ: dict[str, str], registry: Registry) -> None:
    option, module, *rest = arguments
    assert option == "-m"
    if module == "pytest":
        assert all((REPOSITORY / path).exists() for path in rest), rest
    else:
        place = REPOSITORY / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
        if module == "benchmarks.gpu":
            gpu_arguments().parse_args(rest)


CHECKS = {
    "make": check_make,
    "pip": check_pip,
    "flowtune": check_flowtune,
    "python": check_python,
}


def test_every_command_is_shown(registry: Registry) -> None:
    shown = {arguments[0] for _, (program, *arguments) in commands(README) if program == "flowtune"}
    made: Any = get_command(app)
    assert shown == set(made.commands)


def test_the_plugin_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [source] = blocks(README, "python")
    statements = [line for line in source.splitlines() if line.strip()]
    assert len(statements) <= 22  # "in 20 lines", and the two brackets of a list
    site = Site(tmp_path, monkeypatch)
    site.install("capitals", source)
    registry = load_registry()
    task = registry.task("capitals")()
    assert registry.problems == []

    def write(prompt: str, output: int) -> str:
        if prompt.startswith("[user]\nName the largest cities of France"):
            return "Lyon" if output == 0 else "Paris, Lyon"
        return "Paris" if "Paris" in prompt else "Lyon"

    trace = run_deviate(FakeEngine(write), task, example=next(iter(task.examples(None, "train"))))
    assert trace.episode.failure is None
    assert trace.episode.result == {"answer": "Lyon"}
    [preference] = trace.preferences
    assert (preference.node, preference.chosen.text) == ("cities", "Paris, Lyon")
    assert [target.gold for target in trace.episode.targets] == ["Paris"]
    [entry_point] = [block for block in blocks(README, "toml") if "entry-points" in block]
    assert entry_point == '[project.entry-points.flowtune]\ncapitals = "capitals"\n'


@pytest.mark.parametrize("name", ["musique-answerable", "musique-full"])
def test_every_setting_of_musique_is_described(registry: Registry, name: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", MUSIQUE.read_text(encoding="utf-8"), re.M)
    fields = registry.task(name).Settings.model_fields
    assert rows == [(key, toml_value(field.default)) for key, field in fields.items()]
    nodes = registry.task(name)().nodes
    described = re.findall(
        r"^\| `(\w+)`(?: \(Full\))? \| ", MUSIQUE.read_text(encoding="utf-8"), re.M
    )
    assert {node.name for node in nodes} <= set(described)
