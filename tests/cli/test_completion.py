"""Completion as the shells ask for it: by the variables that their scripts set."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.cli import completion, shells
from flowtune_cli.cli.main import main
from flowtune_cli.runs.directory import RunDirectory
from support.installed_plugins import MODEL, Site

Run = Callable[..., Any]
Ask = Callable[[str], list[str]]
LOUD = """
print("printed at import")
from flowtune_cli import hookimpl
@hookimpl
def register_tasks(register):
    print("printed at registration")
"""


def asked(shell: str, line: str) -> dict[str, str]:
    """The variables by which a shell asks to complete the end of a line."""
    variables = {"_FLOWTUNE_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        return {**variables, "COMP_LINE": line}
    if shell == "fish":
        variables["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    return {**variables, "_TYPER_COMPLETE_ARGS": line}


def words(shell: str, out: str) -> list[str]:
    """The completions in a program's answer."""
    if shell == "zsh":
        return re.findall(r'^(?:_arguments .*\(\()?"([^"]*)"', out, re.MULTILINE)
    return [line.partition("\t")[0] for line in out.splitlines() if line]


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(
    site: Site, shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ask:
    """``ask("flowtune pl")``"""

    def call(line: str) -> list[str]:
        completion._registry.cache_clear()
        with monkeypatch.context() as patch:
            for name in ("COMP_WORDS", "COMP_CWORD", "COLUMNS"):
                patch.setenv(name, "")  # which main sets, so that it is undone
            for name, value in asked(shell, line).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([])
        assert ended.value.code == 0
        return words(shell, capsys.readouterr().out)

    return call


def test_commands_and_options(ask: Ask) -> None:
    assert ask("flowtune pl") == ["play", "plugins"]
    assert ask("flowtune gre") == ["greet"]
    assert ask("flowtune models ") == ["fetch"]
    assert "--deviate" in ask("flowtune play --de")
    assert ask("flowtune play --verb") == ["--verbose"]
    assert ask("flowtune --ver") == ["--version", "--verbose"]
    assert ask("flowtune --show-completion z") == ["zsh"]


def test_tasks(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "flowtune.toml").write_text('[tasks.hopper]\nfunction = "flow.py:run"\n')
    for command in ("play", "train", "predict --limit 3", "config", "evaluate"):
        assert ask(f"flowtune {command} ho") == ["hop-qa", "hopper"]
    assert "plain" in ask("flowtune play ")


def test_runs_and_their_checkpoints(ask: Ask, tmp_path: Path) -> None:
    for name in ("first", "other"):
        made = RunDirectory.create(
            tmp_path / "kept",
            name,
            task="hop-qa",
            model="m",
            settings={"settings": {"tasks": {"hop-qa": {"nodes": {"query": {}, "stop": {}}}}}},
        )
        for episodes in (80, 100):
            (made.checkpoints / f"{episodes:08}").mkdir()
    (tmp_path / "flowtune.toml").write_text("[run]\ndirectory = 'kept'\n")
    for before in ("play --run", "train --resume", "train --from", "export", "report", "runs rm"):
        assert ask(f"flowtune {before} fi") == ["first"]
    assert set(ask("flowtune runs tag ")) == {"first", "other"}
    for before in ("play --run", "eval --run other --run", "train --from", "export"):
        assert ask(f"flowtune {before} first@") == ["first@last", "first@80", "first@100"]
    assert ask("flowtune export first@1") == ["first@100"]
    assert ask("flowtune play --run=first@8") == ["first@80"]
    assert ask("flowtune train --resume first@") == []
    assert ask("flowtune export first --node ") == ["query", "stop"]
    assert ask("flowtune play --run nothing") == []
    (tmp_path / "other.toml").write_text("[run]\ndirectory = 'nowhere'\n")
    assert ask("flowtune play --config other.toml --run fi") == []


def test_the_best_checkpoint_of_a_run_that_was_evaluated(
    letters: Site, run: Run, ask: Ask, shell: str
) -> None:
    if shell != "bash":
        pytest.skip("once is enough")
    few = ("--limit", "4", "--set", "training.evaluate.every=4")
    assert run("train", "letters", *few, "--name", "a").code == 0
    assert ask("flowtune play --run a@b") == ["a@best"]


def test_settings(ask: Ask) -> None:
    assert ask("flowtune train --set training.see") == ["training.seed="]
    assert ask("flowtune train --set=model.na") == ["model.name="]
    assert ask("flowtune train --set tas") == ["tasks.hop-qa.", "tasks.plain."]
    hops = ask("flowtune train hop-qa --set tasks.hop-qa.h")
    assert hops == ["tasks.hop-qa.hops="]
    assert "tasks.hop-qa.nodes.query.weight=" in ask("flowtune play --set tasks.hop-qa.nodes.q")
    assert "tasks.hop-qa.nodes.query.prompt.system=" in ask("flowtune play hop-qa --set tas")
    assert ask("flowtune train --set training.seed=4") == []


def test_presets_splits_kinds_and_names(site: Site, ask: Ask, tmp_path: Path) -> None:
    site.install("models", MODEL.format(directory=tmp_path / "small"))
    assert ask("flowtune train hop-qa --preset ") == ["small", "large", "none"]
    assert ask("flowtune train plain --preset ") == ["none"]
    assert ask("flowtune play hop-qa --split tr") == ["train"]
    assert ask("flowtune ls r") == ["rewards", "runs"]
    assert ask("flowtune ls runs --sort m") == ["metric"]
    assert ask("flowtune show mul") == ["multi_sample"]
    assert ask("flowtune models fetch sm") == ask("flowtune play --model sm") == ["small"]


def test_what_is_wrong_is_no_reason_to_say_anything(site: Site, ask: Ask, tmp_path: Path) -> None:
    site.install("loud", LOUD)
    (tmp_path / "flowtune.toml").write_text("[run\n")
    assert ask("flowtune play --run fi") == []
    assert ask("flowtune play --split x 'open") == []


@pytest.mark.parametrize(
    "line",
    [
        "flowtune ",
        "flowtune play ",
        "flowtune play --run f",
        "flowtune predict --",
        "flowtune show ",
        "flowtune train toyqa --set tasks.toyqa.",
        "flowtune train toyqa --preset ",
    ],
)
def test_no_library_is_imported_that_takes_long(line: str, tmp_path: Path) -> None:
    code = (
        "import sys, json\nfrom flowtune_cli.cli.main import main\ntry: main([])\n"
        "except SystemExit: pass\n"
        "heavy = [n for n in ('torch', 'transformers', 'textual') if n in sys.modules]\n"
        "print(json.dumps(heavy), file=sys.stderr)"
    )
    environ = {**os.environ, **asked("bash", line), "FLOWTUNE_PLUGINS": "toyqa"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stderr) == []
    assert done.stdout or "--run" in line


def test_the_scripts_are_shown_and_installed(
    run: Run, tmp_path: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run("--show-completion", shell).out == shells.SCRIPTS[shell]
    assert run("--show-completion").out == shells.SCRIPTS[shell]
    started = {"bash": tmp_path / ".bashrc", "zsh": tmp_path / ".zshrc"}
    if shell in started:
        started[shell].write_text("alias ls='ls -l'")
    for _ in range(2):
        done = run("--install-completion", shell)
        assert done.code == 0
        assert f"completion for {shell} is in {tmp_path}" in done.err
    [file] = [p for p in tmp_path.rglob("*flowtune*") if p.suffix in (".sh", "", ".fish")]
    assert file.read_text() == shells.SCRIPTS[shell]
    if shell in started:
        first, *added = started[shell].read_text().splitlines()
        assert first == "alias ls='ls -l'"
        assert len(added) == 1


def test_a_shell_that_is_not_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown shell 'bsh'. Did you mean 'bash'?" in run("--show-completion", "bsh").err
    monkeypatch.setenv("SHELL", "/bin/dash")
    done = run("--install-completion")
    assert done.code == 2
    assert "names dash, which cannot be completed: name one of bash, zsh, fish" in done.err
    assert "--install-completion bash" in done.err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flowtune pl", ["play", "plugins"]),
        ("flowtune play --run first@", ["last", "80"]),
        ("flowtune play --run first@8", ["80"]),
        ("flowtune train --set training.see", ["training.seed="]),
        ("flowtune train --set=training.see", ["training.seed="]),
    ],
)
def test_bash_itself(tmp_path: Path, line: str, found: list[str]) -> None:
    """Bash takes '@' and '=' for ends of words, and is to insert what is behind them."""
    made = RunDirectory.create(tmp_path / "runs", "first", task="t", model="m", settings={})
    (made.checkpoints / "00000080").mkdir()
    program = tmp_path / "bin/flowtune"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flowtune_cli "$@"\n')
    program.chmod(0o755)
    script = (
        f"{shells.SCRIPTS['bash']}\nCOMP_LINE='{line}' COMP_POINT={len(line)}\n"
        f"_flowtune_completion '{program}'\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environ = {**os.environ, "FLOWTUNE_PLUGINS": ""}
    done = subprocess.run(
        ["bash", "-c", script], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (found, "")
