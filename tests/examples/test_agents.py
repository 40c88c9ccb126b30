"""Agents in other frameworks, which know nothing of flowtune, played as programs.

They need packages that flowtune does not: ``make test-agents`` installs them into an environment of
their own, whose Python FLOWTUNE_AGENTS_PYTHON names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.nodes import Chat
from flowtune_cli.programs.executable import Executable
from support.fake_engine import FakeEngine, FlowTask, run_deviate

PYTHON = os.environ.get("FLOWTUNE_AGENTS_PYTHON")
AGENTS = Path(__file__).parents[2] / "examples" / "agents"
EXAMPLE = Example("e1", {"question": "Where is order A17?"}, gold="Monday")
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"order": "%s"}}\n</tool_call>'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="FLOWTUNE_AGENTS_PYTHON is not set"),
]


def played(name: str, write: Any) -> Any:
    program = Executable(f"{PYTHON} {name}.py", AGENTS, processes=2, timeout=60.0, persistent=False)

    async def flow(episode: Episode, example: Example) -> Any:
        result = await program.play(episode, example.inputs)
        episode.reward("right", float(str(example.gold) in result["answer"]))
        return result

    nodes = [Chat(name="agent", reward="right"), Chat(name="draft", reward="right")]
    return run_deviate(FakeEngine(write), FlowTask(nodes, flow), example=EXAMPLE)


def write_agent(prompt: str, output: int) -> str:
    """Asks for the order, the wrong one at first; then says what it was told."""
    if "left the warehouse" in prompt:
        return "It left the warehouse on Monday."
    if "is waiting" in prompt or "is not known" in prompt:
        return "I do not know."
    return CALL % ("B42", "A17")[output]


@pytest.mark.parametrize("name", ["with_langgraph", "with_pydantic_ai", "with_openai_agents"])
def test_an_agent_calls_its_tool_and_a_better_call_is_preferred(name: str) -> None:
    trace = played(name, write_agent)
    assert trace.episode.failure is None, trace.episode.failure
    assert trace.failures == []
    assert trace.episode.result == {"answer": "I do not know."}
    first, second = trace.episode.steps
    assert [step.node for step in (first, second)] == ["agent", "agent"]
    (call,) = first.output.value.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("look_up", {"order": "B42"})
    asked = json.loads(second.prompt_text)["messages"]
    assert asked[-1]["role"] == "tool"
    preferences = [p for p in trace.preferences if p.step == 0]
    assert [p.chosen.value.tool_calls[0].arguments for p in preferences] == ['{"order": "A17"}']


def test_two_drafts_in_threads() -> None:
    def write(prompt: str, output: int) -> str:
        if "Which is better" in prompt:
            return "2"
        return "On Monday." if ("kindly" in prompt) != bool(output) else "No idea."

    trace = played("with_litellm", write)
    assert trace.episode.failure is None, trace.episode.failure
    assert trace.failures == []
    assert trace.episode.result == {"answer": "On Monday."}
    assert sorted(step.node for step in trace.episode.steps) == ["agent", "draft", "draft"]
    assert trace.preferences
