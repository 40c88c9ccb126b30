"""The plugin brings one task, through the public door."""

from __future__ import annotations

import ast
from pathlib import Path

import flowtune_cli
import flowtune_toyqa
from flowtune_toyqa import plugin
from flowtune_toyqa.flow import ToyQA


def test_it_registers_the_task():
    tasks: list[type] = []
    plugin.register_tasks(tasks.append)
    assert tasks == [ToyQA]
    assert ToyQA.name == "toyqa"


def test_it_uses_nothing_but_the_public_api():
    for file in Path(flowtune_toyqa.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("flowtune_cli") for name in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert not (node.module or "").startswith("flowtune_cli.")
                if node.module == "flowtune_cli":
                    assert {name.name for name in node.names} <= {*flowtune_cli.__all__}
