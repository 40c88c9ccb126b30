"""Programs on the command line: found, trained, resumed, played, predicted and evaluated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flowtune_cli
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from support.installed_plugins import Site
from support.program_files import (
    FUNCTION,
    PROGRAM,
    REWARD,
    WORKER,
    forget_modules,
    records,
    script,
    write_data,
)

Run = Callable[..., Any]

SMALL = """
[training]
batch_size = 2
save_every = 4
[adapter]
rank = 2
"""

NODES = """
[tasks.flow.nodes.draft]
alternatives = 2
max_new_tokens = 8

[tasks.flow.nodes.write]
max_new_tokens = 8
"""


@pytest.fixture
def folder(letters: Site, tmp_path: Path) -> Iterator[Path]:
    """The current directory, with a function, its reward, its data and a settings file."""
    (tmp_path / "flow.py").write_text(FUNCTION)
    (tmp_path / "rewards.py").write_text(REWARD)
    write_data(tmp_path / "d.jsonl")
    (tmp_path / "flowtune.toml").write_text(SMALL)
    yield tmp_path
    forget_modules(tmp_path)


ALL = ("--data", "d.jsonl", "--reward", "rewards.py:score", "--gold", "answer")


def add(folder: Path, text: str) -> None:
    with (folder / "flowtune.toml").open("a") as file:
        file.write(text)


def counts(name: str) -> Any:
    with RunReader(RunDirectory(Path("runs", name)).store_path) as reader:
        return reader.counts()


def test_a_function_is_checked_and_its_nodes_are_written_down(folder: Path, run: Run) -> None:
    before = (folder / "flowtune.toml").read_text()
    done = run("check", "flow.py:run", *ALL, "--limit", "2", "--json")
    assert f"wrote [tasks.flow] with its nodes into {Path('flowtune.toml').absolute()}." in done.err
    assert "playing 2 examples" in done.err
    said = json.loads(done.out)
    assert (said["task"], said["examples"]) == ("flow", ["e0", "e1"])
    assert said["rollouts"] > 0
    assert {finding["code"] for finding in said["findings"]} <= {"output-truncated", "only-ties"}
    assert (folder / "flowtune.toml").read_text() == (
        before
        + """
[tasks.flow]
function = "flow.py:run"
data = "d.jsonl"
reward = "rewards.py:score"
gold = ["answer"]

[tasks.flow.nodes.draft]
reward = "score"

[tasks.flow.nodes.write]
reward = "score"
"""
    )
    # From now on, its name says all, and so does the function.
    done = run("train", "flow", "--limit", "2", "--name", "a")
    assert done.code == 0, done.err
    assert counts("a").episodes == 2
    assert run("train", "flow.py:run", "--limit", "2", "--name", "b").code == 0
    assert counts("b").episodes == 2


REFUSED = """
async def run(example, client):
    try:
        await client.chat.completions.create(
            model="draft", n=2, messages=[{"role": "user", "content": "x"}]
        )
    except Exception:
        return ""
"""


def test_a_program_that_catches_what_it_is_told(folder: Path, run: Run) -> None:
    (folder / "flow.py").write_text(REFUSED)
    done = run("check", "flow.py:run", *ALL, "--limit", "1")
    assert done.code == 1
    assert "called no model: it must ask for its nodes by the client that it is given" in done.err
    assert "A request was answered with an error: 'n': a node gives one answer a call" in done.err
    add(folder, NODES)
    few = ("--limit", "4", "--set", "training.batch_size=4", "--set", "training.save_every=4")
    done = run("train", "flow.py:run", *ALL, *few)
    assert done.code == 2
    assert "training is refused after the first mini-batch was played" in done.err
    assert "- the flow called no node in 4 episodes" in done.err


def test_training_without_nodes_says_what_to_do(folder: Path, run: Run) -> None:
    done = run("train", "flow.py:run", *ALL)
    assert done.code == 2
    assert "no node of task 'flow' is declared. 'flowtune check'" in done.err
    assert not Path("runs").exists()


@pytest.fixture
def trained(folder: Path, run: Run) -> Path:
    """A run that knows all from its command line but the nodes."""
    add(folder, NODES)
    done = run("train", "flow.py:run", *ALL, "--limit", "4", "--name", "a")
    assert done.code == 0, done.err
    return folder


def test_a_run_knows_its_program(trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(Path("runs/a/settings.json").read_text())
    own = stored["settings"]["tasks"]["flow"]
    assert own["function"] == f"{trained / 'flow.py'}:run"
    assert own["data"] == str(trained / "d.jsonl")
    assert own["gold"] == ["answer"]
    assert own["nodes"]["draft"]["alternatives"] == 2
    assert set(stored["program_sha256"]) == {"function", "reward"}
    assert counts("a").episodes == 4

    done = run("train", "--resume", "a")
    assert (done.code, "nothing left to train" in done.err) == (0, True)
    done = run("train", "--resume", "a", "--limit", "6")
    assert done.code == 0, done.err
    assert counts("a").episodes == 6

    done = run("play", "flow", "--run", "a", "--deviate", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["played_by"].startswith("run a of ")
    # From elsewhere, too, and without a task's name.
    (trained / "else").mkdir()
    monkeypatch.chdir(trained / "else")
    done = run("predict", "--run", str(trained / "runs" / "a"), "--out", "p.jsonl")
    assert done.code == 0, done.err
    assert [each["id"] for each in records(Path("p.jsonl"))] == [f"e{n}" for n in range(6)]


def test_a_trained_program_plays_one_s_own_input(trained: Path, run: Run) -> None:
    given = json.dumps({"question": "what is 9", "answer": "not shown"})
    done = run("play", "flow", "--run", "a@4", "--input", given, "--json")
    assert done.code == 0, done.err
    episode = json.loads(done.out)
    assert "not shown" not in done.out
    with flowtune_cli.load("runs/a") as flow:
        assert flow.run(question="what is 9") == episode["result"]


def test_a_new_run_goes_on_from_another_one(trained: Path, run: Run) -> None:
    done = run("train", "--from", "a", "--name", "b", "--limit", "2")
    assert done.code == 0, done.err
    assert counts("b").episodes == 2


def test_predictions_are_evaluated_by_the_reward(trained: Path, run: Run) -> None:
    done = run("predict", "flow", "--run", "a", "--out", "p.jsonl")
    assert done.code == 0, done.err
    lines = records(Path("p.jsonl"))
    assert set(lines[0]) == {"id", "result", "inputs_sha256"}
    [command] = [line for line in done.err.splitlines() if "flowtune evaluate" in line]
    import shlex

    done = run(*shlex.split(command)[1:], "--json")
    assert done.code == 0, done.err
    namespace: dict[str, Any] = {}
    exec(REWARD, namespace)
    data = records(Path("d.jsonl"))
    wanted = [namespace["score"](d, line["result"]) for d, line in zip(data, lines, strict=True)]
    assert json.loads(done.out) == {
        "score": pytest.approx(sum(wanted) / len(wanted)),
        "examples": 6,
    }


def test_a_program_that_changed_is_told_of(trained: Path, run: Run) -> None:
    (trained / "flow.py").write_text(FUNCTION.replace("Write", "Print"))
    forget_modules(trained)
    done = run("play", "flow", "--run", "a")
    assert done.code == 0, done.err
    assert (
        f"warning: {trained / 'flow.py'} (function) has changed since run 'a' began, and is used"
        " as it is now"
    ) in done.err


def test_a_program_that_moved_is_found_where_it_is_said_to_be(trained: Path, run: Run) -> None:
    (trained / "new").mkdir()
    (trained / "flow.py").rename(trained / "new" / "flow.py")
    forget_modules(trained)
    done = run("train", "--resume", "a", "--limit", "6")
    assert done.code == 2
    assert f"there is no file {trained / 'flow.py'}" in done.err
    done = run(
        "train", "--resume", "a", "--limit", "6", "--set", "tasks.flow.function=new/flow.py:run"
    )
    assert done.code == 0, done.err
    assert "has changed" not in done.err


def test_other_data_is_refused_and_other_nodes_are_too(trained: Path, run: Run) -> None:
    write_data(trained / "other.jsonl", 5)
    done = run("train", "--resume", "a", "--limit", "6", "--data", "other.jsonl")
    assert done.code == 2
    assert "the data has changed since run 'a' began" in done.err
    done = run("train", "--resume", "a", "--limit", "6", "--gold", "question")
    assert done.code == 2
    assert 'tasks.flow.gold = ["answer"] in the run' in done.err


def test_an_executable_is_trained_and_resumed(folder: Path, run: Run) -> None:
    add(folder, NODES)
    command = script(folder / "flow.py", PROGRAM)
    done = run("train", "--program", command, *ALL, "--limit", "4", "--name", "a")
    assert done.code == 0, done.err
    assert "plays again in every rollout, with all its tools" in done.err
    assert "flowtune predict flow --run a --data FILE --out a.jsonl" in done.err
    found = counts("a")
    assert (found.episodes, found.failed) == (4, 0)
    assert sum(found.rollouts.values()) > 0
    done = run("train", "--resume", "a", "--limit", "6")
    assert done.code == 0, done.err
    done = run("play", "--program", command, "--run", "a", "--json")
    assert done.code == 0, done.err


def test_executables_are_checked_and_written_down(folder: Path, run: Run) -> None:
    script(folder / "prog.py", WORKER)
    command = f"{sys.executable} -S prog.py"
    done = run(
        "check", "--program", command, *ALL, "--limit", "1", "--set", "tasks.prog.worker=true"
    )
    assert "the program asks for draft: wrote [tasks.prog]" in done.err, done.err
    # Each of its results tells which process it was.
    assert done.code in (0, 1)
    text = (folder / "flowtune.toml").read_text()
    assert f'program = "{command}"' in text
    assert "worker = true" in text
    assert "directory" not in text


def test_a_failing_program_counts_as_failures(folder: Path, run: Run) -> None:
    add(folder, NODES)
    text = PROGRAM.replace("draft = ask", "assert example['id'] != 'e1', 'odd one'\ndraft = ask")
    command = script(folder / "flow.py", text)
    done = run(
        "train", "--program", command, *ALL, "--name", "a", "--set", "training.max_failures=0.5"
    )
    assert done.code == 0, done.err
    found = counts("a")
    assert (found.episodes, found.failed) == (6, 1)
    done = run("play", "--program", command, "--run", "a", "--example", "e1", *ALL)
    assert done.code == 1
    assert "ProgramCrashed: the program ended with exit code 1" in done.out
    assert "AssertionError: odd one" in done.out
    done = run(
        "train", "--program", command, *ALL, "--name", "b", "--set", "training.max_failures=0"
    )
    assert done.code == 1


TARGETS = """
[tasks.flow]
function = "flow.py:run"
data = "d.jsonl"
reward = "rewards.py:score"
gold = ["answer"]

[tasks.flow.nodes.draft]
learn = "supervised"
max_new_tokens = 8
target = "{answer}!"

[tasks.flow.nodes.write]
learn = "supervised"
max_new_tokens = 8
target = "rewards.py:right"
"""


def test_targets_are_fields_or_functions(folder: Path, run: Run) -> None:
    add(folder, TARGETS)
    (folder / "rewards.py").write_text(
        REWARD
        + "\ndef right(example, request):\n"
        + "    return request['messages'][0]['content'][:3] + example['answer']\n"
    )
    done = run("play", "flow", "--json", "--example", "e2")
    assert done.code == 0, done.err
    assert [each["gold"] for each in json.loads(done.out)["targets"]] == ["xx!", "Wrixx"]
    done = run("train", "flow", "--limit", "2", "--name", "a")
    assert done.code == 0, done.err


def test_a_target_that_nothing_is_learned_from(folder: Path, run: Run) -> None:
    add(folder, TARGETS.replace('learn = "supervised"\n', "", 1))
    done = run("train", "flow")
    assert done.code == 2
    assert "node 'draft' of task 'flow' has a target, and learns 'preferences'" in done.err


def test_a_settings_file_with_programs_serves_other_tasks(folder: Path, run: Run) -> None:
    add(folder, TARGETS)
    assert run("train", "letters", "--limit", "2").code == 0
    assert run("ls", "runs").code == 0
    done = run("config", "flow", "--json")
    assert done.code == 0, done.err
    values = json.loads(done.out)["settings"]["tasks"]["flow"]
    assert values["function"] == f"{folder / 'flow.py'}:run"
    assert values["nodes"]["draft"]["target"] == "{answer}!"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "flw"), "unknown task 'flw'"),
        (("train", "letters", "--gold", "x"), "task 'letters' comes from a plugin"),
        (("train", "flow.py:run", "--program", "x"), "a function (flow.py:run) or a program"),
        (("play",), "say which task"),
        (("train", "other/flow.py:run"), "has another program of that name: [tasks.flow] is"),
        (("train", "flow", "--set", "tasks.flow.nodes.drft.weight=2"), "nodes.drft"),
        (("train", "flow", "--set", "tasks.flow.timout=2"), "Did you mean 'tasks.flow.timeout'"),
        (("train", "flow", "--reward", "rewards.py:scor"), "Did you mean 'score'"),
        (("train", "flow", "--data", "x.jsonl"), "there is no file"),
        (("train", "flow", "--split", "dev"), "which has no split 'dev'"),
    ],
)
def test_wrong_use_is_told_before_a_model_is_loaded(
    arguments: tuple[str, ...], said: str, folder: Path, run: Run
) -> None:
    add(folder, TARGETS)
    (folder / "rewards.py").write_text(REWARD + "\ndef right(example, request): ...\n")
    (folder / "other").mkdir()
    (folder / "other" / "flow.py").write_text(FUNCTION)
    done = run(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "loading" not in done.err


def test_a_trained_program_is_exported_and_a_node_merged(trained: Path, run: Run) -> None:
    done = run("export", "a", "--adapters", "out")
    assert done.code == 0, done.err
    nodes = json.loads((trained / "out" / "flow.json").read_text())["nodes"]
    assert {node["kind"] for node in nodes.values()} == {"chat"}
    for name, node in nodes.items():
        assert node["unwritten"].keys() == {"prompt"}
        assert f"'{name}': its prompt is not in flow.json: each call of the flow" in done.err
        assert (trained / "out" / name / "adapter_config.json").is_file()
    assert "def chat(name, messages" in (trained / "out" / "README.md").read_text()
    done = run("merge", "a", next(iter(nodes)), "whole")
    assert done.code == 0, done.err
    assert (trained / "whole" / "model.safetensors").is_file()
