"""What a run stores of how it was made: enough to go on from it, and to tell changed data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import Example
from flowtune_cli.cli import options
from flowtune_cli.cli.stored_settings import describe, stored_settings, to_store
from flowtune_cli.config.resolve import Resolved
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import Site

DATA = {"path": None, "split": "train", "examples": 1, "examples_sha256": "0"}


def resolved(*overrides: str) -> Resolved:
    registry = load_registry()
    return options.settings(registry, registry.task("hop-qa"), overrides=overrides)


def described(questions: list[str], *overrides: str, data: Path | None = None) -> dict[str, Any]:
    examples = [Example(str(n), {"question": text}, gold=text) for n, text in enumerate(questions)]
    settings = resolved(*overrides)
    return dict(describe(data, "train", examples, settings).stored)


def test_what_is_stored_is_read_again(site: Site) -> None:
    stored = to_store(resolved(), Path("flowtune.toml"), Path("runs/a/checkpoints/0000008"), DATA)
    run = RunDirectory.create(Path("runs"), task="hop-qa", model="m", settings=stored)
    assert stored_settings(run) == stored
    assert stored["config"] == str(Path.cwd() / "flowtune.toml")
    assert stored["from"] == str(Path.cwd() / "runs/a/checkpoints/0000008")


@pytest.mark.parametrize("missing", ["settings", "origins", "config", "from", "data"])
def test_a_run_that_says_less_cannot_be_gone_on_with(site: Site, missing: str) -> None:
    stored = to_store(resolved(), None, None, DATA)
    del stored[missing]
    run = RunDirectory.create(Path("runs"), task="hop-qa", model="m", settings=stored)
    with pytest.raises(UsageError, match=r"settings\.json lacks some of: settings, origins"):
        stored_settings(run)


def test_data_are_what_is_trained_on_in_its_order(site: Site) -> None:
    once = described(["a", "b", "c"])
    assert (once["path"], once["split"], once["examples"]) == (None, "train", 3)
    assert described(["a", "b", "c"]) == once
    for other in (described(["a", "b", "d"]), described(["a", "b", "c"], "training.seed=1")):
        assert other["examples_sha256"] != once["examples_sha256"]
    assert described(["a", "b", "c"], "training.limit=2")["examples"] == 2
    assert described(["a"], data=Path("data"))["path"] == str(Path.cwd() / "data")
