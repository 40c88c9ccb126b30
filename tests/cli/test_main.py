"""The command as a whole: help, exit codes, errors, plugin commands, and what it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flowtune_cli
from flowtune_cli.cli import main as main_module
from flowtune_cli.cli import options
from flowtune_cli.cli.main import app
from flowtune_cli.cli.stored_settings import to_store
from flowtune_cli.registry import load_registry
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import Store
from support.installed_plugins import Site

Run = Callable[..., Any]
START = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"


def flowtune(site: Site, *arguments: str) -> list[str]:
    return [sys.executable, "-c", START, *arguments]


def test_help_lists_every_command(site: Site) -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name in ("train", "play", "predict", "evaluate", "ls", "show", "config", "greet"):
        assert f"\n  {name} " in shown.output


def test_without_a_command_help_is_shown(run: Run) -> None:
    assert run().out == run("--help").out
    assert run().code == 0


def test_version(run: Run) -> None:
    assert run("--version").out == f"flowtune {flowtune_cli.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "No such command 'lss'. Did you mean 'ls'?"),
        (["greeet"], "Did you mean 'greet'?"),
        (["ls"], "Missing argument"),
        (["ls", "tasks", "--jso"], "No such option: --jso"),
        (["--nonsense"], "No such option: --nonsense"),
        (["config", "hopqa"], "unknown task 'hopqa'. Did you mean 'hop-qa'?"),
    ],
)
def test_wrong_use_is_exit_code_2_and_said_on_stderr(
    run: Run, arguments: list[str], said: str
) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("flowtune: error: ")
    assert said in done.err


def test_commands_of_plugins(run: Run) -> None:
    assert run("greet", "Ada", "--loud").out == "HELLO ADA\n"
    assert "Say hello." in run("greet", "--help").out


def test_broken_plugins_do_not_break_help(site: Site, run: Run) -> None:
    hook = "from flowtune_cli import hookimpl\n@hookimpl\ndef register_commands(register):\n    "
    site.install("broken", "1 / 0")
    site.install("raises", f"{hook}raise ValueError('no')")
    site.install("untyped", f"{hook}register('odd', eval('lambda x: 0', {{}}))\n")
    site.install("taken", f"{hook}register('ls', print); register('models', print)")
    site.install(
        "unusable", f"{hook}\n    def bad(x: 'Missing') -> None: ...\n    register('bad', bad)"
    )
    done = run("--help")
    assert done.code == 0
    assert "greet" in done.out
    assert "\n  bad" not in done.out
    assert run("ls", "tasks").rows[0][0] == "hop-qa"
    plugins = json.loads(run("plugins", "--json").out)
    problems = {p["name"]: [x["error"] for x in p["problems"]] for p in plugins}
    assert "ZeroDivisionError" in problems["broken"][0]
    assert "ValueError: no" in problems["raises"][0]
    assert problems["taken"] == [
        f"command '{name}': flowtune has a command of this name" for name in ("ls", "models")
    ]
    assert "'bad' cannot be made a command: NameError" in problems["unusable"][0]


def test_help_survives_a_wrong_list_of_plugins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "hopp")
    done = run("--help")
    assert done.code == 0
    assert "Did you mean 'hop'?" in done.err
    assert run("ls", "tasks").code == 2


def test_a_bug_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("flowtune_cli.registry.load_registry", bug)
    with pytest.raises(ZeroDivisionError):
        run("ls", "tasks")


def test_an_interrupt_is_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flowtune_cli.registry.load_registry", interrupted)
    assert run("ls", "tasks").code == 130


def test_help_imports_nothing_heavy(site: Site) -> None:
    code = (
        "import json, sys\nfrom flowtune_cli.cli.main import main\nassert main(['--help']) == 0\n"
        "sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**site.environ(), "FLOWTUNE_PLUGINS": ""},
        capture_output=True,
        check=True,
    )
    heavy = {"torch", "transformers", "peft", "textual", "pydantic", "rich", "huggingface_hub"}
    assert not heavy & set(json.loads(done.stderr))


@pytest.mark.parametrize("arguments", [["config"], ["greet", "Ada"]])
def test_a_closed_pipe_is_quiet(site: Site, arguments: list[str]) -> None:
    with subprocess.Popen(
        flowtune(site, *arguments),
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_exit_codes_of_the_process(site: Site) -> None:
    done = subprocess.run(
        flowtune(site, "ls", "nothing"), env=site.environ(), capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_quiet(site: Site) -> None:
    hook = "from flowtune_cli import hookimpl\n@hookimpl\ndef register_commands(register):\n"
    wait = (
        "    def wait() -> None:\n        import time\n        print('ready', flush=True)\n"
        "        time.sleep(600)\n    register('wait', wait)\n"
    )
    site.install("waiting", hook + wait)
    with subprocess.Popen(
        flowtune(site, "wait"),
        env=site.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


def test_every_command_is_a_module_of_its_own() -> None:
    for function in main_module.COMMANDS:
        assert function.__module__ == f"flowtune_cli.cli.{function.__name__}"
    for group in main_module.GROUPS:
        for command in group.registered_commands:
            assert command.callback is not None
            assert command.callback.__module__ == f"flowtune_cli.cli.{group.info.name}"


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        f"train letters --name {LONG}",
        f"train letters --set run.directory={LONG}",
        f"train letters --data {LONG}",
        f"train letters --config {LONG}",
        f"train letters --from {LONG}",
        f"train letters --model {LONG}",
        f"train --resume {LONG}",
        f"play letters --run {LONG}",
        f"predict letters --out {LONG}",
        f"predict letters --out {LONG}/a",
        f"predict letters --run {LONG} --out a",
        f"predict letters --data {LONG} --out a",
        f"postprocess letters {LONG} --reorder --out a",
        f"postprocess letters {LONG} --reorder --out {LONG}",
        f"evaluate letters {LONG}",
        f"export {LONG} --episodes a",
        f"export empty --episodes {LONG}",
        f"export empty --preferences {LONG}",
        f"export empty --adapters {LONG}",
        f"report {LONG} --json",
        f"report empty --out {LONG}",
        f"config --config {LONG}",
        f"ls runs --config {LONG}",
    ],
)
def test_a_name_that_is_too_long_is_a_wrong_one(letters: Site, run: Run, arguments: str) -> None:
    registry = load_registry()
    settings = options.settings(registry, registry.task("letters"))
    RunDirectory.create(
        Path("runs"),
        "empty",
        task="letters",
        model="m",
        settings=to_store(settings, None, None, {}),
    )
    Store(Path("runs/empty/store.sqlite"), str).close()
    checkpoint = Path("runs/empty/checkpoints/0000001")
    (checkpoint / "adapters" / "draft").mkdir(parents=True)
    (checkpoint / "state.json").touch()
    before = sorted(Path().rglob("*"))
    done = run(*arguments.split())
    assert done.code == 2, done.err
    assert LONG[:50] in done.err
    assert "Traceback" not in done.err
    left = sorted(path for path in Path().rglob("*") if path.suffix != ".sqlite-shm")
    assert [path for path in left if path.suffix != ".sqlite-wal"] == before
