"""A plugin's task whose code is another one than a run was made with."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from flowtune_cli.cli import options
from flowtune_cli.cli.programs import ready
from flowtune_cli.cli.stored_settings import to_store
from flowtune_cli.cli.task_code import code_digest, code_place
from flowtune_cli.flow.task import Task
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site

DATA = {"path": None, "split": "train", "examples": 1, "examples_sha256": "0"}


def test_it_is_told_where_a_run_is_used(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    registry = load_registry()
    task_class = registry.task("hop-qa")
    resolved = options.settings(registry, task_class)
    stored = to_store(resolved, None, None, DATA)
    run = RunDirectory.create(Path("runs"), name="a", task="hop-qa", model="m", settings=stored)
    ready(resolved.make_task(), resolved, run)
    assert capsys.readouterr().err == ""
    place = code_place(task_class)
    assert place is not None
    place.write_text(place.read_text() + "# another one\n")
    ready(resolved.make_task(), resolved, run)
    told = capsys.readouterr().err
    assert f"warning: the code of task 'hop-qa' ({place}) has changed since run 'a' began" in told
    ready(resolved.make_task(), resolved)
    # Runs of before do not say what their code was.
    del stored["task_sha256"]
    older = RunDirectory.create(Path("runs"), name="b", task="hop-qa", model="m", settings=stored)
    ready(resolved.make_task(), resolved, older)
    assert capsys.readouterr().err == ""


def test_all_files_of_its_package_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "parcels"
    package.mkdir()
    files = {name: package / f"{name}.py" for name in ("__init__", "flow", "prompts")}
    for path in files.values():
        path.write_text("")
    for name, path in (("parcels", files["__init__"]), ("parcels.flow", files["flow"])):
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["parcels"].__path__ = [str(package)]
    task: type[Task] = type("Parcels", (Task,), {"__module__": "parcels.flow"})
    assert code_place(task) == package
    before = code_digest(task)
    files["prompts"].write_text("BRIEF = 'Be brief.'\n")
    changed = code_digest(task)
    files["prompts"].rename(package / "texts.py")
    assert len({before, changed, code_digest(task)}) == 3
    monkeypatch.delattr(sys.modules["parcels"], "__path__")
    assert code_place(task) == files["flow"]
