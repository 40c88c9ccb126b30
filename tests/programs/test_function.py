"""Functions as flows: their parameters, and where they are imported from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs.function import FunctionProgram
from support.fake_engine import FakeEngine, FlowTask, run_play
from support.program_files import FUNCTION, forget_modules

EXAMPLE = Example("e1", {"question": "why"}, gold={})


def written(path: Path, text: str, name: str = "run") -> str:
    path.write_text(text, encoding="utf-8")
    return f"{path}:{name}"


def played(text: str) -> Episode:
    program = FunctionProgram(text)

    async def flow(episode: Episode, example: Example) -> Any:
        return await program.play(episode, dict(example.inputs))

    nodes = [Chat(name="draft"), Chat(name="write")]
    return run_play(FakeEngine(), FlowTask(nodes, flow), example=EXAMPLE)


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget_modules(tmp_path)


def test_an_async_function_with_a_client(tmp_path: Path) -> None:
    episode = played(written(tmp_path / "flow.py", FUNCTION))
    assert episode.failure is None
    assert [step.node for step in episode.steps] == ["draft", "write"]
    assert episode.result["draft"] == episode.steps[0].output.text


def test_a_plain_function_runs_in_a_thread(tmp_path: Path) -> None:
    text = FUNCTION.replace("async def", "def").replace("await ", "")
    episode = played(written(tmp_path / "flow.py", text))
    assert episode.failure is None
    assert [step.node for step in episode.steps] == ["draft", "write"]


def test_a_function_that_makes_its_own_client(tmp_path: Path) -> None:
    text = """
import asyncio, json, urllib.request

def ask(base_url, api_key):
    body = {"model": "draft", "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(base_url + "/chat/completions", json.dumps(body).encode(),
                                     {"authorization": "Bearer " + api_key})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]

async def run(example, *, base_url, api_key, retries=3):
    return await asyncio.to_thread(ask, base_url, api_key)
"""
    episode = played(written(tmp_path / "flow.py", text))
    assert episode.failure is None
    assert episode.result == episode.steps[0].output.text


def test_a_failure_names_the_line(tmp_path: Path) -> None:
    episode = played(written(tmp_path / "flow.py", "async def run(example, client):\n    1 / 0\n"))
    assert episode.failure is not None
    assert episode.failure.error == "ZeroDivisionError: division by zero"
    assert f'{tmp_path / "flow.py"}", line 2' in episode.failure.traceback


def test_its_folder_is_looked_in_as_for_a_script(tmp_path: Path) -> None:
    (tmp_path / "flowtune_test_helper.py").write_text("NAME = 'helper'\n")
    text = "import flowtune_test_helper as h\nasync def run(example): return h.NAME\n"
    assert played(written(tmp_path / "flow.py", text)).result == "helper"


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flow.py").write_text(f"async def run(example): return {name!r}\n")
    results = [played(f"{tmp_path / name}/flow.py:run").result for name in ("a", "b", "a")]
    assert results == ["a", "b", "a"]


def test_a_file_named_as_a_module_that_is_loaded(tmp_path: Path) -> None:
    text = written(tmp_path / "json.py", "async def run(example): return 1\n")
    assert played(text).result == 1
    import json

    assert json.loads("2") == 2


def test_a_module_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "flowtune_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flows.py").write_text("async def run(example): return example['question']\n")
    monkeypatch.chdir(tmp_path)
    assert played("flowtune_test_package.flows:run").result == "why"
    with pytest.raises(UsageError, match=r"there is no module 'flowtune_test_package\.other'"):
        FunctionProgram("flowtune_test_package.other:run")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("async def run(client, example): ...", "does not take the example as its first parameter"),
        ("async def run(): ...", "does not take the example as its first parameter"),
        ("async def run(example, model): ...", "has a parameter 'model' that nobody gives"),
        ("def other(example): ...\ndef rum(): ...", r"has no function 'run'\. Did you mean 'rum'"),
        ("run = 7", "has something else as 'run'"),
        ("x = 1\nx.y\n", r"flow\.py, line 2: cannot be imported: AttributeError"),
        ("def run(:\n", r"flow\.py, line 1: cannot be imported: SyntaxError"),
        ("import sys\nsys.exit(2)", r"flow\.py, line 2: cannot be imported: SystemExit: 2"),
        ("import no_such_module_x", r"flow\.py, line 1: cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        FunctionProgram(written(tmp_path / "flow.py", text))


@pytest.mark.parametrize("text", ["flow.py", "flow.py:", ":run", "flow.py:1run"])
def test_what_is_no_function(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no function: write FILE\.py:FUNCTION"):
        FunctionProgram(text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        FunctionProgram(f"{tmp_path / 'flow.py'}:run")


def test_optional_parameters_are_left_alone(tmp_path: Path) -> None:
    text = "async def run(example, temperature=0.5, *more, **others): return temperature\n"
    assert played(written(tmp_path / "flow.py", text)).result == 0.5
