"""What a task has before its author adds anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.task import Task
from support.fake_engine import writer


class Small(Task):
    name = "small"
    nodes: Any = (writer("a"), writer("b"))

    class Settings(BaseModel):
        hops: int = 4

    def examples(self, source: Path | None, split: str) -> Any:
        return [Example("1", {"question": "why"})]

    async def run(self, episode: Episode, example: Example) -> Any:
        return {}


def test_each_instance_has_its_own_nodes() -> None:
    first, second = Small(), Small()
    first.node("a").alternatives = 9
    assert second.node("a").alternatives == 1
    assert Small.nodes[0].alternatives == 1
    assert [node.name for node in first.nodes] == ["a", "b"]


def test_nodes_can_be_given() -> None:
    node = writer("c")
    assert Small(nodes=[node]).nodes == (node,)


def test_two_nodes_of_one_name_are_refused() -> None:
    for name in ("a", "A"):
        with pytest.raises(UsageError, match=f"'small' has two nodes of one name.*: a, b, {name}"):
            Small(nodes=[writer("a"), writer("b"), writer(name)])


def test_other_inputs_have_another_id() -> None:
    task = Small()
    first, again, other = (task.example_from({"question": text}) for text in "aab")
    assert first == again
    assert first.id.startswith("input-")
    assert first.id != other.id
    # What has no digest is told apart, too.
    opened = {"file": (each for each in "ab")}
    assert task.example_from(opened).id != task.example_from(opened).id


def test_settings_default_to_the_tasks_own() -> None:
    assert Small().settings == Small.Settings(hops=4)
    assert Small(Small.Settings(hops=2)).settings.hops == 2


def test_nodes_may_depend_on_settings() -> None:
    class Other(Small):
        @classmethod
        def default_nodes(cls, settings: Any) -> Any:
            return [writer(f"n{n}") for n in range(settings.hops)]

    assert [node.name for node in Other(Small.Settings(hops=2)).nodes] == ["n0", "n1"]


def test_defaults_of_what_is_shown_and_written() -> None:
    task, example = Small(), Example("1", {"question": "why"})
    assert task.prediction(example, {"answer": "so"}) == {"id": "1", "answer": "so"}
    assert task.prediction_id(example) == "1"
    assert task.scores(example, {"answer": "so"}) == {}
    assert task.outcome_text(example, {"answer": "é"}) == '{"answer": "é"}'
    assert task.question_text(example) == "why"
    assert task.question_text(Example("7")) == "7"
    with pytest.raises(UsageError, match="'small' has no evaluation"):
        task.evaluate([], [])
