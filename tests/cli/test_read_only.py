"""Every command that reads a run does so on a read-only mount; what would write says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.installed_plugins import Site
from support.read_only_mount import python_with_mount

COMMANDS = [
    "report a --json",
    "report a --out page.html",
    "ls runs",
    "export a --episodes e.jsonl --preferences p.jsonl --adapters adapters",
    "play letters --run a",
    "predict letters --split test --limit 1 --run a --out out.jsonl",
    "train letters --from a --limit 1 --name b --set run.directory=other",
    "train --resume a",
]
SCRIPT = """
import contextlib, io, json, sys
from flowtune_cli.cli.main import main
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command.split())
    print(json.dumps([code, err.getvalue()]))
"""


def test_a_run_is_read(letters: Site, run: Callable[..., Any]) -> None:
    assert run("train", "letters", "--limit", "2", "--name", "a").code == 0
    Path("mount").mkdir()
    on_mount = [f"{command} --set run.directory=mount" for command in COMMANDS]
    on_mount[6] = COMMANDS[6].replace("--from a", "--from mount/a")
    given = json.dumps(on_mount)
    out = python_with_mount(Path("runs"), Path("mount"), SCRIPT, given, env=letters.environ())
    *read, (code, err) = map(json.loads, out.splitlines())
    assert [code for code, _ in read] == [0] * 7, read
    assert code == 1
    assert f"cannot lock {Path.cwd() / 'mount/a/lock'}: Read-only file system" in err
    assert Path("e.jsonl").read_text().count("\n") == 2
