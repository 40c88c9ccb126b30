"""The tutorial's plugin: installed as a package, loaded by the registry, and played."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli import DataError, Example, Outcome, Task, UsageError
from flowtune_cli.cli.main import main
from flowtune_cli.config.layers import tomllib
from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.postprocessing import post_process
from flowtune_cli.registry import Registry, load_registry
from flowtune_cli.registry.checks import postprocessor, reward_or_evaluator
from flowtune_cli.runtime.event_loop import NO_LIMITS
from flowtune_cli.testing import (
    ScriptedEngine,
    assert_replays,
    check_task,
    deviate,
    training_data,
)
from flowtune_cli.training.admission.examine import examine
from support.installed_plugins import install_package
from support.markdown_blocks import REPOSITORY, blocks, commands

PACKAGE = REPOSITORY / "tests" / "example_plugin"
TUTORIAL = REPOSITORY / "docs" / "write-a-plugin.md"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRY_POINTS = "[flowtune]\n" + "".join(
    f"{name} = {module}\n" for name, module in PROJECT["entry-points"]["flowtune"].items()
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    install_package(PACKAGE, tmp_path, monkeypatch)
    return load_registry()


@pytest.fixture
def task(registry: Registry) -> Task:
    return registry.task("mailroom")()


def score(node: str, prompt: str, completion: str) -> float:
    """The team knows what a parcel is, and else thinks of money."""
    return 0.0 if completion == ("delivery" if "parcel" in prompt else "billing") else -3.0


@pytest.fixture
def engine() -> ScriptedEngine:
    """The greedy summary says nothing, the first alternative what matters."""
    said = ["A customer wrote.", "A parcel is late.", "A customer wrote.", "A customer wrote."]
    return ScriptedEngine(write={"summary": said}, score=score)


def test_the_registry_loads_it(registry: Registry) -> None:
    registry.load_all()
    assert registry.problems == []
    entry = registry.entries("task")["mailroom"]
    assert (entry.plugin, entry.distribution) == ("mailroom", "flowtune-mailroom")


def test_it_is_complete_and_replays(task: Task) -> None:
    check_task(task, data=PACKAGE / "data")
    assert_replays(task, list(task.examples(PACKAGE / "data", "train"))[:3])


def test_the_admission_check_finds_nothing(task: Task) -> None:
    """Though the prompt of a node shows all labels."""
    examples = list(task.examples(PACKAGE / "data", "train"))[:4]
    traces = [deviate(task, ScriptedEngine(), example) for example in examples]
    assert examine(task, traces, examples, limits=NO_LIMITS) == []


def test_setuptools_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    copy = shutil.copytree(PACKAGE, tmp_path / "package")
    code = "from setuptools import build_meta as b; b.prepare_metadata_for_build_wheel('..')"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    [points] = tmp_path.glob("flowtune_mailroom-*.dist-info/entry_points.txt")
    assert points.read_text(encoding="utf-8").strip() == ENTRY_POINTS.strip()
    assert (points.parent / "top_level.txt").read_text(encoding="utf-8").split() == ["mailroom"]


def test_the_tutorial_shows_it_as_it_is() -> None:
    [project] = blocks(TUTORIAL, "toml")
    assert project == (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    plugin, _, tests, *_ = blocks(TUTORIAL, "python")
    assert tests == (PACKAGE / "tests/test_mailroom.py").read_text(encoding="utf-8")
    assert plugin == (PACKAGE / "src/mailroom/plugin.py").read_text(encoding="utf-8")
    [records] = blocks(TUTORIAL, "json")
    assert (PACKAGE / "data/train.jsonl").read_text(encoding="utf-8").startswith(records)


def test_the_tutorial_s_post_processor_elects_a_team(task: Task) -> None:
    *_, source, _ = blocks(TUTORIAL, "python")
    names: dict[str, Any] = {}
    exec(source, names)
    register: list[Any] = []
    names["register_postprocessors"](register.append)
    [processor] = [thing() for thing in register if postprocessor(thing)]
    assert task.name in processor.tasks
    assert set(processor.nodes) <= task.nodes_by_name.keys()
    results = [{"team": "repairs"}, None, {"team": "repairs"}, {"team": "delivery"}]
    lines = [
        {"id": "a", "team": "billing", "rollouts": [{"result": result} for result in results]},
        {"id": "b", "team": "billing"},
    ]
    done = post_process([processor], task, [], lines, print)
    assert [line["team"] for line in done] == ["repairs", "billing"]


def test_the_tutorial_s_evaluator_prefers_the_shorter_summary(task: Task) -> None:
    *_, source = blocks(TUTORIAL, "python")
    names: dict[str, Any] = {}
    exec(source, names)
    register: list[Any] = []
    names["register_rewards"](register.append)
    [shorter] = [thing for thing in register if reward_or_evaluator(thing)]
    task.node("summary").evaluator = {"name": "shorter", "limit": 2}
    engine = ScriptedEngine(write={"summary": ["one two three four", "one", "one two three"]})
    example = next(iter(task.examples(PACKAGE / "data", "train")))
    trace = deviate(task, engine, example, evaluators={"summary": shorter(limit=2)})
    gains = [d.gain for d in trace.deviations if d.node == "summary"]
    assert gains[:2] == [2.0, 1.0]


@pytest.mark.slow
def test_the_tutorial_s_tests_pass_and_can_fail(registry: Registry, tmp_path: Path) -> None:
    """Run as an author would, in a copy of the package, and once more with a mistake in it."""
    folder = shutil.copytree(PACKAGE, tmp_path / "package")
    plugin = folder / "src/mailroom/plugin.py"

    def run_tests() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), *sys.path])},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    assert "3 passed" in run_tests()
    source = plugin.read_text(encoding="utf-8")
    plugin.write_text(source.replace('reward="certainty"', 'reward="certianty"'), encoding="utf-8")
    assert "Did you mean 'certainty'?" in run_tests()


def test_the_better_summary_is_preferred_and_the_team_gets_its_target(
    task: Task, engine: ScriptedEngine
) -> None:
    message = Example("a", {"message": "Where is my order?"}, gold="delivery")
    trace = deviate(task, engine, message)
    assert trace.episode.failure is None
    assert trace.episode.result == {"team": "billing", "summary": "A customer wrote."}
    likely, unlikely = 1 / (1 + 2 * math.exp(-3)), math.exp(-3) / (1 + 2 * math.exp(-3))
    assert trace.episode.reward_means() == {"certainty": pytest.approx(unlikely), "routed": 0.0}
    assert [deviation.outcome for deviation in trace.deviations] == [Outcome.ALTERNATIVE_BETTER]
    [preference] = trace.preferences
    assert (preference.node, preference.chosen.text) == ("summary", "A parcel is late.")
    assert preference.margin == pytest.approx(likely - unlikely)
    assert [(target.step, target.gold) for target in trace.episode.targets] == [(1, "delivery")]
    learned = training_data(task, trace)
    assert {node: len(data) for node, data in learned.items()} == {"summary": 1, "team": 1}


def test_a_message_without_a_label_teaches_nothing(task: Task, engine: ScriptedEngine) -> None:
    trace = deviate(task, engine, Example("a", {"message": "Hello"}))
    assert trace.episode.result["team"] == "billing"
    assert {deviation.outcome for deviation in trace.deviations} == {Outcome.SKIPPED}
    assert training_data(task, trace) == {}


def test_the_teams_can_be_set(registry: Registry) -> None:
    resolved = resolve(
        registry.task("mailroom"),
        environ={},
        overrides=['tasks.mailroom.teams=["sales", "press"]'],
        registry=registry,
    )
    task = resolved.make_task()
    assert task.node("team").labels == ("sales", "press")
    with pytest.raises(DataError, match=r"train\.jsonl:1: there is no team 'billing'"):
        list(task.examples(PACKAGE / "data", "train"))


def test_its_data(task: Task, tmp_path: Path) -> None:
    found = {split: list(task.examples(PACKAGE / "data", split)) for split in task.splits}
    assert {split: len(examples) for split, examples in found.items()} == {"train": 24, "dev": 9}
    for examples in found.values():
        assert {example.gold for example in examples} == set(task.settings.teams)
        assert len({example.id for example in examples}) == len(examples)
    assert list(task.examples(PACKAGE / "data/dev.jsonl", "train")) == found["dev"]
    assert not {e.message for e in found["train"]} & {e.message for e in found["dev"]}
    assert task.question_text(found["dev"][0]) == found["dev"][0].message

    with pytest.raises(UsageError, match="--data"):
        list(task.examples(None, "train"))
    (tmp_path / "odd.jsonl").write_text('{"id": "1", "message": "m"}\n{"id": "2"}\n')
    with pytest.raises(DataError, match=r"(?s)odd\.jsonl:2: .*message"):
        list(task.examples(tmp_path / "odd.jsonl", "train"))


def test_evaluation(task: Task) -> None:
    examples = list(task.examples(PACKAGE / "data", "dev"))
    lines = [{"id": example.id, "team": "billing"} for example in examples]
    assert task.evaluate(examples, lines) == {"routed": pytest.approx(1 / 3)}
    with pytest.raises(DataError, match="in their order"):
        task.evaluate(examples, lines[::-1])
    with pytest.raises(DataError, match="no team"):
        task.evaluate([Example("a", {"message": "m"})], [{"id": "a", "team": "billing"}])


@pytest.fixture
def tutorial_folder(
    registry: Registry, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The package's folder, with the tiny model in the place of the built-in one."""
    import torch

    folder = shutil.copytree(PACKAGE, tmp_path / "package")
    for split in ("train", "dev"):
        path = folder / "data" / f"{split}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:5]), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLOWTUNE_MODEL__NAME", str(tiny_model_dir))
    monkeypatch.setenv("FLOWTUNE_MODEL__DTYPE", "float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run(
    tutorial_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []
    for _, (program, *arguments) in commands(TUTORIAL):
        if program == "pip":
            assert arguments == ["install", "-e", "."]
            continue
        assert program == "flowtune"
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)
        ran.append(arguments[0])
    assert set(ran) >= {"plugins", "show", "play", "train", "predict", "evaluate"}
    assert "task: mailroom" in capsys.readouterr().out
    assert sorted(os.listdir(tutorial_folder / "runs")) == ["adam", "first", "warmer"]
    lines = (tutorial_folder / "first-dev.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"dev-0{n}" for n in range(1, 6)]
