"""Standard output holds a command's own output alone, whoever else writes to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.installed_plugins import Site

Run = Callable[..., Any]
START = "import sys; from flowtune_cli.cli.main import main; sys.exit(main())"

NOISY = '''
import os
import subprocess
import sys
from pathlib import Path

from flowtune_cli import Example, Generate, Task, Template, hookimpl


def noise(where):
    print("printed", where)
    sys.stdout.flush()
    os.write(1, f"written {where}\\n".encode())
    subprocess.run([sys.executable, "-c", f"print('from a subprocess {where}')"], check=True)


noise("at import")


class Noisy(Task):
    name = "noisy"
    nodes = [Generate(name="draft", prompt=Template("{question}"), reward="r", max_new_tokens=2)]

    def examples(self, source, split):
        noise("in examples")
        return [Example("e1", {"question": "?"}, 1)]

    async def run(self, episode, example):
        noise("in run")
        episode.reward("r", len(await episode.call("draft", question="?")))
        return {}

    def evaluate(self, examples, predictions):
        noise("in evaluate")
        return {"count": len(predictions)}


@hookimpl
def register_tasks(register):
    noise("in a hook")
    register(Noisy)


@hookimpl
def register_commands(register):
    def shout() -> None:
        """Shout."""
        noise("by the command")

    register("shout", shout)
'''


def start(site: Site, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.run(
        command, **{"env": site.environ(), "capture_output": True, "text": True, **more}
    )


@pytest.fixture
def noisy(site: Site) -> Site:
    site.install("noisy", NOISY)
    return site


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "tasks", "--json"],
        ["plugins", "--json"],
        ["config", "noisy", "--json"],
        ["evaluate", "noisy", "p.jsonl", "--json"],
    ],
)
def test_the_json_is_json_and_the_noise_is_on_stderr(noisy: Site, arguments: list[str]) -> None:
    (noisy.path / "p.jsonl").write_text('{"id": "e1"}\n')
    done = start(noisy, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    for way in ("printed", "written", "from a subprocess"):
        assert f"{way} at import\n" in done.stderr
        assert f"{way} in a hook\n" in done.stderr
        assert (f"{way} in evaluate\n" in done.stderr) is (arguments[0] == "evaluate")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_has_no_noise(noisy: Site, arguments: list[str]) -> None:
    done = start(noisy, *arguments)
    assert done.returncode == 0
    assert done.stdout.startswith(("Usage: flowtune", "flowtune "))
    assert " at import" not in done.stdout
    assert " in a hook" not in done.stdout


def test_a_command_of_a_plugin_has_standard_output_to_itself(noisy: Site) -> None:
    done = start(noisy, "shout")
    said = ["printed by the command", "written by the command", "from a subprocess by the command"]
    assert done.stdout.splitlines() == said
    assert "printed at import" in done.stderr


def test_in_this_process_too(letters: Site, run: Run) -> None:
    letters.install("noisy", NOISY.split("    os.write")[0] + NOISY.partition("check=True)")[2])
    done = run("train", "noisy", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["counts"]["episodes"] == 1
    assert done.err.count("printed in run\n") >= 1
    played = run("play", "noisy", "--json")
    assert json.loads(played.out)["rewards"]
    assert sys.stdout.write("") == 0


@pytest.mark.parametrize("arguments", [["ls", "tasks", "--json"], ["shout"], ["--help"]])
def test_a_closed_pipe_is_quiet_with_noise_too(noisy: Site, arguments: list[str]) -> None:
    command = [sys.executable, "-c", START, *arguments]
    with subprocess.Popen(
        command, env=noisy.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    if arguments != ["shout"]:  # what a plugin's own code does there is its own affair
        assert "Traceback" not in said
        assert "Broken pipe" not in said


def test_more_than_a_pipe_holds(site: Site) -> None:
    """The reader is slow: nothing is lost."""
    reader = "import sys, time; time.sleep(0.5); print(len(sys.stdin.read()))"
    code = "from flowtune_cli.cli import command, stdout\n"
    code += "from flowtune_cli.cli.main import app, main\n"
    code += "app.command(cls=command.OwnCommand)(lambda: stdout.write('x' * 300_000))\n"
    code += "app.registered_commands[-1].name = 'long'\nmain(['long'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=site.environ(), stdout=subprocess.PIPE
    ) as writer:
        read = subprocess.run(
            [sys.executable, "-c", reader], stdin=writer.stdout, capture_output=True, check=True
        )
    assert writer.returncode == 0
    assert int(read.stdout) == 300_001


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said(site: Site) -> None:
    with open("/dev/full", "w") as full:
        done = start(
            site, "config", "--json", capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "flowtune: error: the output cannot be written: No space left on device"
    ]


@pytest.mark.skipif(os.name != "posix", reason="a shell closes them")
def test_closed_descriptors(site: Site) -> None:
    shell = f"{sys.executable} -c '{START}' ls tasks"
    for closing, code in ((">&-", 0), ("2>&-", 0)):
        done = subprocess.run(
            f"{shell} {closing}", shell=True, env=site.environ(), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (code, "")
        assert ("hop-qa" in done.stdout) is (closing == "2>&-")
