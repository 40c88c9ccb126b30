"""What commands do with paths that the shell has left as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.installed_plugins import Site

Run = Callable[..., Any]

COPY = """
from pathlib import Path
from flowtune_cli import hookimpl

@hookimpl
def register_commands(register):
    def where(path: Path, more: list[Path] = []) -> None:
        print(path, *more)

    register("where", where)
"""


@pytest.fixture
def home(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


def test_every_path_of_a_command(letters: Site, home: Path, run: Run) -> None:
    (home / "data.jsonl").write_text('{"id": "e", "question": "?", "gold": 1}\n')
    (home / "my.toml").write_text("[training]\nlimit = 1\n[run]\ndirectory = 'kept'\n")
    given = ["--data", "~/data.jsonl", "--config", "~/my.toml"]
    assert run("train", "letters", *given, "--name", "a").code == 0
    assert (home / "kept/a/run.json").is_file()
    stored = json.loads((home / "kept/a/settings.json").read_text())
    assert stored["data"]["path"] == str(home / "data.jsonl")
    assert stored["config"] == str(home / "my.toml")
    run_at = ["--run", "~/kept/a"]
    assert run("predict", "letters", *given[:2], *run_at, "--out", "~/p.jsonl").code == 0
    assert run("evaluate", "letters", "~/p.jsonl", *given[:2], "--json").code == 0
    assert run("export", "~/kept/a", "--episodes", "~/e.jsonl", "--adapters", "~/w").code == 0
    assert (home / "e.jsonl").is_file()
    assert (home / "w/flow.json").is_file()
    assert run("train", "--resume", "~/kept/a").code == 0
    assert run("report", "~/kept/a", "--json").code == 0
    assert not any(path.name.startswith("~") for path in Path.cwd().iterdir())


def test_of_a_plugin_s_command(site: Site, home: Path, run: Run) -> None:
    site.install("copy", COPY)
    done = run("where", "~/a", "--more=~/b", "--more", "c~")
    assert done.out == f"{home / 'a'} {home / 'b'} c~\n"
    assert "no such home directory" in run("where", "~nobody-at-all").err
