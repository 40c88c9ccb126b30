"""``flowtune plugins``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flowtune_cli.registry.hookspecs import Hooks
from support.installed_plugins import Site

Run = Callable[..., Any]


def test_what_each_plugin_brings(run: Run) -> None:
    done = run("plugins")
    assert done.code == 0
    assert "builtin (flowtune " in done.out
    own = done.out.partition("\nhop (hop-dist 1.0)")[2]
    assert "\n  task: hop-qa, plain\n  command: greet\n" in own
    assert "PROBLEM" not in done.out


def test_problems_with_their_errors(site: Site, run: Run) -> None:
    site.install("broken", "def helper():\n    raise KeyError('inside')\nhelper()\n")
    done = run("plugins")
    assert done.code == 0
    own = done.out.partition("\nbroken (broken-dist 1.0)")[2]
    assert "PROBLEM: cannot be imported: KeyError: 'inside'" in own
    assert "line 2, in helper" in own
    shown = next(p for p in json.loads(run("plugins", "--json").out) if p["name"] == "broken")
    assert shown["distribution"] == "broken-dist"
    assert shown["brings"] == {}
    assert "in helper" in shown["problems"][0]["traceback"]


def test_the_hooks(run: Run) -> None:
    rows = dict(run("plugins", "--hooks").rows)
    assert set(rows) == {name for name in vars(Hooks) if name.startswith("register_")}
    assert (
        rows["register_tasks"]
        == "``register(task_class)``: subclasses of ``Task``, known by their ``name``."
    )
    assert len(json.loads(run("plugins", "--hooks", "--json").out)) == len(rows)
