"""What is said of nodes: all that another program needs, and what is missing with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from flowtune_cli import Chat, Factor, Feature, Generate, Judge, Rank, Template
from flowtune_cli.exports.nodes import node_entry, reads_contexts
from flowtune_cli.registry import load_registry

ADAPTER = {"name": "n", "path": "n", "rank": 8, "version": 1}
PLAIN = Template("{x}", chat=False)
BEHIND = Template("{x}", chat=False, frozen_prefix="{y}")


@dataclass(kw_only=True)
class Polite(Generate):
    """Makes its prompts by code."""

    words: tuple[str, ...] = ("please",)
    make: Callable[[str], str] = str.upper
    templates: dict[str, Template] = field(default_factory=lambda: {"one": BEHIND})


def test_a_chat_s_prompts_come_with_its_calls() -> None:
    node = Chat(name="n", temperature=0.7, top_p=0.9, max_new_tokens=20, stop=("x",))
    entry = node_entry(node, ADAPTER, {})
    assert (entry["kind"], entry["code"], entry["adapter"]) == ("chat", None, ADAPTER)
    assert (entry["prompt"], entry["unwritten"].keys()) == (None, {"prompt"})
    limits = {key: entry[key] for key in ("temperature", "top_p", "max_new_tokens", "stop")}
    assert limits == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 20, "stop": ["x"]}


def test_a_template_is_written_whole() -> None:
    prompt = Template("{x}", "S", "P", truncate=("x",), separator="; ")
    entry = node_entry(Generate(name="n", prompt=prompt), None, {})
    assert Template(**{**entry["prompt"], "truncate": tuple(entry["prompt"]["truncate"])}) == prompt
    assert (entry["adapter"], entry["unwritten"]) == (None, {})


def test_labels_factors_and_features() -> None:
    judge = Judge(name="n", prompt=PLAIN, labels=(" Yes", " No"))
    assert node_entry(judge, ADAPTER, {})["labels"][0] == {"text": " Yes", "value": "Yes"}
    texts = ("{x}", Factor("{y}", PLAIN, -0.5))
    judge = Judge(name="n", prompt=PLAIN, score="likelihood", text=texts, threshold=-3.0)
    entry = node_entry(judge, ADAPTER, {"likelihood": 2.0, "bias": 1.0})
    assert entry["threshold"] == -3.0
    assert [factor["weight"] for factor in entry["factors"]] == [1.0, -0.5]
    assert [factor["prompt"] is None for factor in entry["factors"]] == [True, False]
    assert entry["head"] == {"likelihood": 2.0, "bias": 1.0}
    rank = Rank(name="n", prompt=PLAIN, features=(Feature("length", len),))
    entry = node_entry(rank, ADAPTER, {"length": 0.5})
    assert entry["features"] == ["length"]
    assert entry["unwritten"].keys() == {"features.length"}


@pytest.mark.parametrize(
    ("node", "reads"),
    [
        (Generate(name="n", prompt=PLAIN), False),
        (Generate(name="n", prompt=BEHIND), True),
        (Judge(name="n", prompt=PLAIN, score="likelihood", text=(Factor("x", BEHIND),)), True),
        (Rank(name="n", prompt=PLAIN, score="likelihood", text=(Factor("x", PLAIN),)), False),
        (Polite(name="n", prompt=PLAIN), True),
        (Chat(name="n"), False),
    ],
)
def test_contexts_are_found_wherever_a_template_is(node: Any, reads: bool) -> None:
    assert reads_contexts(node) is reads
    assert node_entry(node, ADAPTER, {})["context_without_adapter"] is reads
    # Without an adapter, nothing is read with one.
    assert node_entry(node, None, {})["context_without_adapter"] is False


def test_a_type_of_another_s() -> None:
    entry = node_entry(Polite(name="n", prompt=PLAIN, stop=("x",)), ADAPTER, {})
    assert entry["code"].endswith("test_nodes.Polite")
    assert (entry["kind"], entry["words"], entry["stop"]) == ("generate", ["please"], ["x"])
    assert entry["make"] is None
    assert entry["unwritten"].keys() == {"request", "make"}
    json.dumps(entry)


@pytest.mark.parametrize("name", ["musique-answerable", "musique-full", "toyqa"])
def test_the_nodes_of_every_task(name: str) -> None:
    for node in load_registry().task(name)().nodes:
        entry = node_entry(node, ADAPTER, node.initial_head())
        assert json.loads(json.dumps(entry)) == entry
        assert entry["code"] is None
