"""The pipeline on the openai client: as a function, as a program in Python, and in bash."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs.executable import Executable
from flowtune_cli.programs.function import FunctionProgram
from support.fake_engine import FakeEngine, FlowTask, run_deviate
from support.program_files import forget_modules

FOLDER = Path(__file__).parents[2] / "examples" / "pipeline"
EXAMPLE = Example(
    "q1", {"question": "Where is my order A17?"}, gold={"order": "A17", "must_say": "Monday"}
)


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield
    forget_modules(FOLDER)


def write(prompt: str, output: int) -> str:
    """Finds the order at the second attempt, and says what it was told in the warm draft."""
    if "Which order" in prompt and "alone" not in prompt:
        order = "A17" if "again" in prompt or output else "C99"
        return json.dumps({"order": order})
    if "Which order" in prompt:
        return ("C99", "A17")[output]
    if "Which answer" in prompt:
        return str(output + 1)
    warm = "warmly" in prompt
    return "It left on Monday." if warm != bool(output) else "I cannot say."


def trained(program: Any) -> Any:
    from rewards import score  # type: ignore[import-not-found]

    async def flow(episode: Episode, example: Example) -> Any:
        result = await program.play(episode, dict(example.inputs))
        episode.reward("score", score({**example.inputs, **example.gold}, result))
        return result

    nodes = [Chat(name=name, reward="score") for name in ("extract", "draft", "choose")]
    return run_deviate(FakeEngine(write), FlowTask(nodes, flow), example=EXAMPLE)


def check(trace: Any) -> None:
    episode = trace.episode
    assert episode.failure is None, episode.failure
    assert trace.failures == []
    assert [step.node for step in episode.steps] == [
        *["extract"] * 2,
        *["draft"] * 2,
        "choose",
    ]
    assert episode.result == {"order": "A17", "answer": "I cannot say."}
    assert episode.reward_means() == {"score": 0.5}
    # The first attempt would have done, the brief draft could have said it, or the warm one be
    # chosen.
    asked = [episode.steps[p.step].prompt_text for p in trace.preferences if p.chosen.text != ""]
    assert any("briefly" in prompt for prompt in asked)
    assert any("Which answer" in prompt for prompt in asked)


def test_as_a_function() -> None:
    check(trained(FunctionProgram(f"{FOLDER / 'pipeline.py'}:run")))


def test_as_a_program_in_python() -> None:
    command = f"{sys.executable} pipeline.py"
    check(trained(Executable(command, FOLDER, processes=4, timeout=60.0, persistent=False)))


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("jq"), reason="needs curl and jq")
def test_as_a_program_in_bash() -> None:
    trace = trained(
        Executable("./pipeline.sh", FOLDER, processes=4, timeout=60.0, persistent=False)
    )
    assert trace.episode.failure is None, trace.episode.failure
    assert trace.failures == []
    assert [step.node for step in trace.episode.steps] == ["extract", "draft"]
    assert trace.episode.result == {"order": "C99", "answer": "I cannot say."}
    assert {(p.node, p.chosen.text) for p in trace.preferences} == {
        ("extract", "A17"),
        ("draft", "It left on Monday."),
    }


def test_its_files_name_flowtune_in_comments_alone() -> None:
    for file in [*FOLDER.glob("*.py"), *FOLDER.glob("*.sh"), *FOLDER.parent.glob("agents/*.py")]:
        assert "import flowtune" not in file.read_text()
        assert "from flowtune" not in file.read_text()
