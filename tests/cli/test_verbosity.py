"""``--quiet`` and ``--verbose``, on every command and before it: what each of them changes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli import verbosity
from flowtune_cli.cli.main import COMMANDS
from support.installed_plugins import Site

Run = Callable[..., Any]
TALKS = """
import logging, warnings
from flowtune_cli import Task, Example, hookimpl

class Talks(Task):
    name = "talks"
    splits = ("train",)
    nodes = []
    def examples(self, source, split):
        logging.getLogger("some.library").info("a log of a library")
        warnings.warn("a warning of a library", DeprecationWarning, stacklevel=2)
        yield Example("a", {}, 1)
    async def run(self, episode, example):
        return 1
    def evaluate(self, examples, predictions):
        return {"count": 1}

@hookimpl
def register_tasks(register):
    register(Talks)
"""


@pytest.mark.parametrize("name", [command.__name__ for command in COMMANDS])
def test_every_command_has_short_help_and_both_levels(run: Run, name: str) -> None:
    short, long = run(name, "-h"), run(name, "--help")
    assert (short.code, short.out) == (0, long.out)
    for option in ("-v, --verbose", "-q, --quiet", "-h, --help"):
        assert option in short.out


def test_short_help_of_the_program_of_groups_and_of_plugins(run: Run) -> None:
    assert run("-h").out == run("--help").out != ""
    assert "fetch" in run("models", "-h").out
    assert "-v, --verbose" in run("models", "fetch", "-h").out
    assert "Say hello." in run("greet", "-h").out


@pytest.mark.parametrize("arguments", [["-q", "ls", "runs"], ["ls", "runs", "--quiet"]])
def test_quiet_leaves_notes_out(run: Run, arguments: list[str]) -> None:
    assert "there are no runs" in run("ls", "runs").err
    assert run(*arguments).err == ""
    assert "there are no runs" in run("ls", "runs").err  # it was for that command alone


def test_quiet_leaves_out_progress_and_what_to_try_but_no_warning(letters: Site, run: Run) -> None:
    usual = run("train", "letters", "--limit", "2")
    assert "2/2 episodes" in usual.err
    assert "Next, try:\n  flowtune play letters" in usual.err
    quiet = run("-q", "train", "letters", "--limit", "2")
    assert (quiet.code, quiet.out) == (0, usual.out)
    warned = [line for line in usual.err.splitlines() if line.startswith("flowtune: warning: ")]
    assert quiet.err.splitlines() == warned
    judged = run("eval", "letters", "--run", "letters-001", "--split", "train", "-q")
    assert judged.err == "flowtune: warning: 'letters-001' was trained on 2 of the 8 examples\n"
    assert run("train", "lettersx", "-q").err.startswith("flowtune: error: unknown task")


def test_verbose_shows_where_an_error_comes_from(run: Run) -> None:
    assert "Traceback" not in run("ls", "runsy").err
    done = run("ls", "runsy", "-v")
    assert done.code == 2
    assert "Traceback" in done.err
    assert "raise unknown_name(" in done.err
    assert done.err.splitlines()[-1].startswith("flowtune: error: unknown kind of thing")


def test_verbose_says_where_settings_come_from_and_how_long_things_take(
    letters: Site, run: Run
) -> None:
    few = ("letters", "--limit", "2", "--set", "training.batch_size=1")
    usual, done = run("train", *few), run("train", *few, "-v")
    for told in (
        "flowtune: training.batch_size = 1 (--set)",
        "flowtune: training.limit = 2 (--limit)",
        "flowtune: adapter.rank = 2 (task letters)",
        "flowtune: model.dtype = ",
    ):
        assert told in done.err
        assert told not in usual.err
    assert "learning.optimizer = " in done.err
    for phase in ("loading", "play and deviate", "learn"):
        assert any(line.startswith(f"flowtune: {phase}") for line in done.err.splitlines())
    assert re.search("flowtune: loading .* took ", done.err)
    assert not re.search("flowtune: loading .* took ", usual.err)


def test_verbose_lets_libraries_talk(site: Site, run: Run, tmp_path: Path) -> None:
    site.install("talks", TALKS)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "result": 1}\n')
    arguments = ("evaluate", "talks", "p.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual, done = run(*arguments), run(*arguments, "--verbose")
    assert usual.code == done.code == 0
    assert "of a library" not in usual.err
    assert "some.library: INFO: a log of a library" in done.err
    assert not logging.getLogger("flowtune_cli").isEnabledFor(logging.DEBUG)


def test_verbose_lets_transformers_talk(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging as of_transformers

    from flowtune_cli.models.quiet import quiet

    with quiet():
        assert of_transformers.get_verbosity() == logging.ERROR
        print("a bar", file=sys.stderr)
    assert capsys.readouterr().err == ""
    with verbosity.as_usual():
        verbosity._be_verbose(True)
        with quiet():
            assert of_transformers.get_verbosity() == logging.INFO
            print("a bar", file=sys.stderr)
    assert capsys.readouterr().err == "a bar\n"


def test_both_are_refused(run: Run) -> None:
    done = run("-q", "ls", "runs", "-v")
    assert done.code == 2
    assert "--quiet and --verbose contradict each other" in done.err


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowtune_cli", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("flowtune ")
    wrong = subprocess.run([sys.executable, "-m", "flowtune_cli", "nothing"], capture_output=True)
    assert wrong.returncode == 2
