"""Which adapter a node plays with, and settings of adapters that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtune_cli.flow.adapters import (
    adapter_problems,
    check_adapters,
    link_adapters,
    settle,
    why_untrained,
)
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.node import Node
from support.fake_engine import writer
from support.tiny_training import Urn


def names(*nodes: Node, trained: tuple[str, ...] = ()) -> list[str | None]:
    link_adapters(nodes, trained)
    return [node.adapter_name for node in nodes]


def test_a_node_that_plays_the_base_model_learns_nothing() -> None:
    node = writer("a", adapter="none")
    assert why_untrained(node) == "it plays the base model (adapter = 'none')"
    settle([node])
    assert (node.learn, node.adapter_name) == ("nothing", None)
    assert names(node, trained=("a",)) == [None]


def test_a_node_that_shares_plays_what_the_other_plays() -> None:
    assert names(writer("a"), writer("b", share="a")) == ["a", "a"]
    assert names(writer("b", share="a", learn="nothing"), writer("a")) == ["a", "a"]
    frozen = [
        writer(name, learn="nothing", share=share) for name, share in (("a", None), ("b", "a"))
    ]
    assert names(*frozen) == [None, None]
    assert names(*frozen, trained=("a",)) == ["a", "a"]
    assert names(*frozen, trained=("b",)) == [None, None]


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ({"a": {"share": "a"}}, "a: share is 'a', the node itself"),
        (
            {"writer": {}, "b": {"share": "wrter"}},
            "b: share is 'wrter', which is no node of the task (writer, b). Did you mean 'writer'?",
        ),
        (
            {"a": {}, "b": {"share": "a"}, "c": {"share": "b"}},
            "c: share is 'b', which itself shares",
        ),
        (
            {"a": {"adapter": "none"}, "b": {"share": "a"}},
            "b: share is 'a', which has no adapter (it plays the base model (adapter = 'none'))",
        ),
        (
            {"a": {}, "b": {"share": "a", "adapter": "none"}},
            "b: adapter is 'none', and share = 'a'",
        ),
        ({"a": {"adapter": "none", "start": Path("x")}}, "a: adapter is 'none', and start = 'x'"),
        (
            {"a": {}, "b": {"share": "a", "start": Path("x")}},
            "b: share is 'a', whose adapter starts",
        ),
        (
            {"a": {"learn": "nothing"}, "b": {"share": "a"}},
            "b: share is 'a', whose adapter stays as it is (learn = 'nothing')",
        ),
    ],
)
def test_what_does_not_go_together(nodes: dict[str, Any], problem: str) -> None:
    made = [writer(name, **fields) for name, fields in nodes.items()]
    [(node, setting, text)] = adapter_problems(made)
    assert f"{node}: {setting} {text}".startswith(problem)
    with pytest.raises(UsageError, match=f"^node '{node}': {setting} is"):
        check_adapters(made)


def test_a_node_without_an_adapter_in_any_case() -> None:
    urn = "'urn'"
    problems = {text for _, _, text in adapter_problems([Urn(adapter="none")])}
    problems |= {text for _, _, text in adapter_problems([writer("a", share="urn"), Urn()])}
    problems |= {text for _, _, text in adapter_problems([writer("a"), Urn(share="a")])}
    assert len(problems) == 3
    assert all(urn in text for text in problems)


def test_what_goes_together() -> None:
    assert not list(
        adapter_problems(
            [
                writer("a"),
                writer("b", share="a"),
                writer("c", share="a", learn="nothing"),
                writer("d", adapter="none"),
                Urn(),
            ]
        )
    )
