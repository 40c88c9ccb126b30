"""Values that a task's code gives its nodes, which Python takes and which would mislead."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.config.resolve import resolve
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.flow.task import Task
from flowtune_cli.nodes import Generate, Judge, Rank
from flowtune_cli.registry import load_registry

PROMPT = Template("{x}", chat=False)


def resolved(*nodes: Node) -> None:
    class Made(Task):
        name = "made"

        def examples(self, source: Path | None, split: str) -> Iterable[Example]:
            return []

        async def run(self, episode: Any, example: Example) -> Any: ...

    Made.nodes = nodes
    resolve(Made, environ={}, registry=load_registry())


def generate(**more: Any) -> Node:
    return Generate(name="a", **{"prompt": PROMPT, **more})


def test_nodes_as_they_should_be() -> None:
    resolved(generate(stop=("END",), share=None), Judge(name="b", prompt=PROMPT))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (generate(stop="END"), r"stop should be a tuple, \('END',\), not the text 'END'"),
        (Judge(name="a", prompt=PROMPT, labels="Yes"), r"labels should be a tuple"),  # type: ignore[arg-type]
        (generate(prompt=Template("{x}", truncate="x y")), r"prompt\.truncate should be a tuple"),  # type: ignore[arg-type]
        (
            generate(learn="preference"),
            "learn should be 'preferences' or 'supervised' or",
        ),
        (generate(adapter="non"), "adapter should be 'own' or 'none', not 'non'"),
        (generate(pairs="bst"), "pairs should be 'each' or 'best'"),
        (Rank(name="a", prompt=PROMPT, text="{x}", score="likelyhood"), "score should be"),  # type: ignore[arg-type]
        (generate(weight=-1.0), "weight should be 0 or more, not -1.0"),
        (generate(alternatives=-1), "alternatives should be 0 or more"),
    ],
)
def test_a_value_that_misleads(node: Node, said: str) -> None:
    with pytest.raises(UsageError, match=rf"task made: tasks\.made\.nodes\.a\.{said}"):
        resolved(node)


def test_no_tokens_at_all() -> None:
    with pytest.raises(UsageError, match="node 'a': max_new_tokens must be 1 or more"):
        generate(max_new_tokens=0)
