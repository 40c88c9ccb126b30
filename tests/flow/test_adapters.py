"""Which adapter a node plays with, and settings of adapters that do not go together."""

from __future__ import annotations

import re
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
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Generate, Judge
from support.fake_engine import writer
from support.tiny_training import Urn

FAR = {"url": "http://127.0.0.1:9/v1", "name": "big"}


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
        (
            {"a": {"model": "other"}, "b": {"share": "a"}},
            "b: share is 'a', which has no adapter (another model plays it (other))",
        ),
        ({"a": {"model": "other", "adapter": "none"}}, "a: model is set, and 'adapter' says"),
        ({"a": {"model": "other", "start": Path("x")}}, "a: model is set, and 'start' says"),
        ({"a": {"model": ""}}, "a: model is an empty text"),
        ({"a": {"model": {"name": "x"}}}, "a: model needs a url"),
        ({"a": {"model": {"url": "ftp://x", "name": "x"}}}, "a: model needs a url that begins"),
        ({"a": {"model": {"url": "http://u:p@x/v1", "name": "x"}}}, "a: model has a url with a"),
        ({"a": {"model": {**FAR, "kye": "K"}}}, "a: model has no 'kye'; an endpoint has url, name"),
        ({"a": {"model": {**FAR, "timeout": -1}}}, "a: model has timeout = -1"),
        ({"a": {"model": {**FAR, "timeout": "1"}}}, "a: model has a timeout that"),
        ({"a": {"model": {**FAR, "retries": 1.5}}}, "a: model has retries = 1.5"),
        ({"a": {"model": {**FAR, "price": {"input": 1}}}}, "a: model needs both in its price"),
    ],
)
def test_what_does_not_go_together(nodes: dict[str, Any], problem: str) -> None:
    made = [writer(name, **fields) for name, fields in nodes.items()]
    [(node, setting, text)] = adapter_problems(made)
    assert f"{node}: {setting} {text}".startswith(problem)
    with pytest.raises(UsageError, match=re.escape(f"node '{node}': {setting} {text}")):
        check_adapters(made)


def test_a_node_without_an_adapter_in_any_case() -> None:
    urn = "'urn'"
    problems = {text for _, _, text in adapter_problems([Urn(adapter="none")])}
    problems |= {text for _, _, text in adapter_problems([writer("a", share="urn"), Urn()])}
    problems |= {text for _, _, text in adapter_problems([writer("a"), Urn(share="a")])}
    assert len(problems) == 3
    assert all(urn in text for text in problems)


def test_an_endpoint_does_not_continue_a_prefill() -> None:
    prompt = Template("{x}", prefill="So")
    [(_, _, text)] = adapter_problems([Generate(name="a", prompt=prompt, model=FAR)])
    assert text.startswith("is the endpoint big, which does not continue the prefill")
    assert not list(adapter_problems([Generate(name="a", prompt=prompt, model="other")]))


def test_a_key_itself_is_refused_and_not_repeated() -> None:
    for key in ("sk-secret", "sk_secret1"):
        [(_, _, text)] = adapter_problems([writer("a", model={**FAR, "key": key})])
        assert "keys are read from the environment alone" in text
        assert "secret" not in text


def test_what_scores_its_own_texts_cannot_be_an_endpoint_but_another_model() -> None:
    judge = Judge(name="j", prompt=Template("{x}"), model=FAR)
    [(_, _, text)] = adapter_problems([judge])
    assert "a node of type 'judge' compares log-likelihoods of its own texts" in text
    assert not list(adapter_problems([Judge(name="j", prompt=Template("{x}"), model="other")]))
    [(_, _, text)] = adapter_problems([Urn(model="other")])
    assert "'urn' uses no model" in text


def test_a_node_that_another_model_plays_learns_nothing() -> None:
    node = writer("a", model=FAR)
    settle([node])
    assert (node.learn, names(node, trained=("a",))) == ("nothing", [None])
    assert why_untrained(node) == "another model plays it (big)"


def test_what_goes_together() -> None:
    assert not list(
        adapter_problems(
            [
                writer("a"),
                writer("b", share="a"),
                writer("c", share="a", learn="nothing"),
                writer("d", adapter="none"),
                writer("e", model=FAR),
                writer("f", model="other"),
                Urn(),
            ]
        )
    )
