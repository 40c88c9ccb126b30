"""The plugin provides one model, through the public door, and imports nothing heavy for it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowtune_cli
import flowtune_smollm2
from flowtune_cli.config.settings import DEFAULT_MODEL, DEFAULT_MODEL_PACKAGE
from flowtune_cli.registry import load_registry
from flowtune_smollm2.model import SmolLM2


def test_it_provides_the_default_model() -> None:
    registry = load_registry()
    entry = registry.entries("model")[DEFAULT_MODEL]
    assert isinstance(entry.thing, SmolLM2)
    assert entry.distribution == DEFAULT_MODEL_PACKAGE


@pytest.mark.parametrize("name", ["builtin:smollm2-135m", "smollm2"])
def test_other_spellings_get_a_suggestion(name: str) -> None:
    assert "Did you mean 'smollm2-135m'?" in str(load_registry().unknown("model", name))


def test_it_uses_nothing_but_the_public_api() -> None:
    for file in Path(flowtune_smollm2.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("flowtune_cli") for name in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert not (node.module or "").startswith("flowtune_cli.")
                if node.module == "flowtune_cli":
                    assert {name.name for name in node.names} <= {*flowtune_cli.__all__}


def test_asking_whether_it_is_ready_imports_nothing_heavy(cache: Path) -> None:
    code = (
        "import sys; from flowtune_cli.registry import load_registry\n"
        "source = load_registry().model('smollm2-135m')\n"
        "print(source.is_ready(), source.directory)\n"
        "print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    answer, imported = done.stdout.splitlines()
    assert answer.startswith(f"False {cache}")
    assert imported == "[]"
