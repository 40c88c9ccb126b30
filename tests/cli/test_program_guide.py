"""The guide for programs: its files are written, and its commands run, in their order."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.layers import tomllib
from flowtune_cli.programs.settings import ProgramSettings
from support.installed_plugins import Site
from support.markdown_blocks import REPOSITORY, blocks, commands
from support.program_files import forget_modules, records

GUIDE = REPOSITORY / "docs" / "train-your-program.md"

SMALL = """
[training]
batch_size = 2
[adapter]
rank = 2
"""


def test_the_guide_works(
    letters: Site, tmp_path: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where flowtune's environment is active: its python is the one that has openai.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    for block in blocks(GUIDE, "python"):
        name = block.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    [data] = blocks(GUIDE, "json")
    (tmp_path / "data.jsonl").write_text(data, encoding="utf-8")
    settings = tmp_path / "flowtune.toml"
    settings.write_text(SMALL)
    written, worker, target = blocks(GUIDE, "toml")
    try:
        ran = []
        for environ, (program, *arguments) in commands(GUIDE):
            assert (environ, program) == ({}, "flowtune")
            done = run(*arguments)
            if "evaluate" not in arguments:
                assert done.code == 0, (arguments, done.out, done.err)
            ran.append(arguments[0])
            if len(ran) == 1:
                assert settings.read_text() == f"{SMALL}\n{written}"
        assert ran[:3] == ["check", "train", "train"]
        assert len(records(tmp_path / "first.jsonl")) == 4
        # The other settings that are shown are settings, too.
        table = tomllib.loads(worker)["tasks"]["program"]
        assert ProgramSettings(**table).worker
        settings.write_text(SMALL + written.rpartition("[tasks.flow.nodes.choose]")[0] + target)
        done = run("play", "flow", "--json")
        assert done.code == 0, done.err
        assert '"gold": "billing"' in done.out
    finally:
        forget_modules(tmp_path)


def test_every_failure_and_setting_that_the_guide_names_is_there() -> None:
    from flowtune_cli.programs import outcome

    text = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(Program\w+)` \|", text, re.M))
    assert named == {
        name
        for name, thing in vars(outcome).items()
        if isinstance(thing, type) and thing not in (outcome.ProgramFailed,)
    }
    for name in ("data", "processes", "timeout", "worker"):
        assert name in ProgramSettings.model_fields
        assert f"`{name}" in text
