"""Paths in settings: '~' is expanded, and they mean the same from everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.layers import Origin
from flowtune_cli.config.paths import is_path, located
from flowtune_cli.config.resolve import Resolved, resolve
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.paths import PathText, place_text
from flowtune_cli.registry import load_registry
from support.installed_plugins import MODEL, Site

FILED = """
from dataclasses import dataclass
from pathlib import Path
from pydantic import BaseModel
from flowtune_cli import Generate, Task, Template, hookimpl

class Corpus(BaseModel):
    index: Path = Path("~/index")

class Filed(BaseModel):
    one: Path | None = None
    more: list[Path] = []
    named: dict[str, Path] = {}
    text: str = "x"
    corpus: Corpus = Corpus()

@dataclass(kw_only=True)
class Lookup(Generate):
    table: Path = Path("table")
    pair: tuple[Path, int] = (Path("a"), 1)

class T(Task):
    name = "filed"
    Settings = Filed
    defaults = {"one": "~/theirs"}
    nodes = [Lookup(name="n", prompt=Template("x"))]
    def examples(self, source, split): return []
    async def run(self, episode, example): return {}

@hookimpl
def register_tasks(register):
    register(T)
"""

Resolve = Callable[..., Resolved]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def filed(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site", monkeypatch)
    site.install("filed", FILED)
    site.install("models", MODEL.format(directory=tmp_path / "small"))
    registry = load_registry()

    def call(*overrides: str, toml: str = "", environ: Any = None) -> Resolved:
        file = tmp_path / "elsewhere" / "flowtune.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(toml)
        return resolve(
            registry.task("filed"),
            file=file,
            environ=environ or {},
            overrides=overrides,
            registry=registry,
        )

    return call


def test_of_the_home_directory(filed: Resolve, home: Path) -> None:
    found = filed(
        "run.directory=~/x",
        "model.name=~/m",
        "tasks.filed.more=['~/a', '~']",
        "tasks.filed.named={b = '~/b'}",
        "tasks.filed.text=~/text",
        "tasks.filed.nodes.n.pair=['~/p', 2]",
        environ={"FLOWTUNE_TASKS__FILED__CORPUS__INDEX": "~/i"},
        toml="[tasks.filed.nodes.n]\ntable = '~/t'",
    )
    assert found.settings.run.directory == home / "x"
    assert found.settings.model.name == str(home / "m")
    task = found.make_task()
    assert task.settings.one == home / "theirs"
    assert task.settings.more == [home / "a", home]
    assert task.settings.named == {"b": home / "b"}
    assert task.settings.text == "~/text"  # it is no path
    assert task.settings.corpus.index == home / "i"
    assert (task.node("n").table, task.node("n").pair) == (home / "t", (home / "p", 2))
    assert found.stored["settings"]["tasks"]["filed"]["more"] == [str(home / "a"), str(home)]


def test_relative_to_where_it_is_written(filed: Resolve, tmp_path: Path) -> None:
    toml = "[run]\ndirectory = 'r'\n[model]\nname = './m'\n[tasks.filed]\none = '../one'\n"
    found = filed(toml=toml)
    file = tmp_path / "elsewhere"
    assert found.settings.run.directory == file / "r"
    assert found.settings.model.name == str(file / "m")
    assert found.make_task().settings.one == file / "../one"
    given = ["run.directory=r", "model.name=./m", "tasks.filed.one=one"]
    environ = {"FLOWTUNE_TASKS__FILED__MORE": "['a']"}
    found = filed(*given, toml=toml, environ=environ)
    assert found.settings.run.directory == tmp_path / "here/r"
    assert found.settings.model.name == str(tmp_path / "here/m")
    assert found.make_task().settings.one == tmp_path / "here/one"
    assert found.make_task().settings.more == [tmp_path / "here/a"]


def test_what_nobody_set_stays_as_it_is(filed: Resolve) -> None:
    found = filed()
    assert found.settings.run.directory == Path("runs")
    assert found.make_task().node("n").table == Path("table")


def test_names_of_models_that_are_no_paths(filed: Resolve, tmp_path: Path) -> None:
    Path("small").mkdir()
    Path("m2/tiny").mkdir(parents=True)
    assert filed("model.name=small").settings.model.name == "small"  # a plugin's
    assert filed("model.name=org/name").settings.model.name == "org/name"
    assert filed("model.name=m2/tiny").settings.model.name == str(tmp_path / "here/m2/tiny")
    assert filed("model.name=m.gguf").settings.model.name == str(tmp_path / "here/m.gguf")


def test_a_home_that_is_not_there(filed: Resolve) -> None:
    for key in ("run.directory", "model.name", "tasks.filed.one"):
        with pytest.raises(UsageError, match=rf"--set: {key} .*~nobody-at-all.*no such home"):
            filed(f"{key}=~nobody-at-all/x")


@pytest.mark.parametrize("name", ["./m", "../m", "~/m", "/m", "a/b/c", "m.gguf", "a\\b"])
def test_a_path(name: str) -> None:
    assert is_path(name)


def test_a_run_s_own_paths_stay() -> None:
    assert located(Path, "a", Origin("run", "run x")) == "a"


def test_a_text_that_begins_with_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said, filed = Origin("command line", "--set"), Origin("file", "/some/where/flowtune.toml")
    assert located(PathText, "flow.py:run", said) == f"{tmp_path}/flow.py:run"
    assert located(PathText | None, "flow.py:run", filed) == "/some/where/flow.py:run"
    assert located(PathText, "flow.py:run", Origin("run", "run a")) == "flow.py:run"
    assert located(PathText, "hf://owner/name", filed) == "hf://owner/name"


def test_the_id_of_a_data_set_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As an option that is a Path has it.
    assert place_text(Path("hf://owner/name")) == "hf://owner/name"
    assert place_text("hf://owner/name") == "hf://owner/name"
    assert place_text(Path("d.jsonl")) == str(tmp_path / "d.jsonl")
