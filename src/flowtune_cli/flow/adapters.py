"""Which adapter each node of a flow plays with, and which settings of them do not go together."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from .endpoint import Endpoint
from .errors import UsageError, did_you_mean
from .node import Node
from .prompt import Template

Problem = tuple[str, str, str]
"""A node, its setting that cannot stay, and what is wrong with that: "is ..."."""


def settle(nodes: Sequence[Node]) -> None:
    """Let the nodes that have nothing to train learn nothing."""
    for node in nodes:
        if why_untrained(node) is not None:
            node.learn = "nothing"


def why_untrained(node: Node) -> str | None:
    """Why a node learns nothing, whatever its ``learn`` says; None if that decides."""
    if node.model is not None:
        name = node.model if isinstance(node.model, str) else node.model.get("name")
        return f"another model plays it ({name})"
    return "it plays the base model (adapter = 'none')" if node.adapter == "none" else None


def link_adapters(nodes: Sequence[Node], trained: Container[str] = ()) -> None:
    """Find out which nodes have an adapter, see ``Node.adapter_name``.

    Args:
        trained: the nodes whose adapters will be loaded.
    """
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        node.has_learned = (node.share or node.name) in trained
    for node in nodes:
        if node.share is not None and by_name[node.share].adapter_name is not None:
            node.has_learned = True


def check_adapters(nodes: Sequence[Node]) -> None:
    """Raise a UsageError for the first problem, see ``adapter_problems``."""
    for node, setting, text in adapter_problems(nodes):
        raise UsageError(f"node '{node}': {setting} {text}")


def adapter_problems(nodes: Sequence[Node]) -> Iterator[Problem]:
    """What is wrong with the settings that choose adapters."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        text = _other_model(node)
        if text is not None:
            yield node.name, "model", text
            continue
        text = _alone(node)
        if text is not None:
            yield node.name, "adapter", text
        elif node.share is not None:
            text = _sharing(node, by_name)
            if text is not None:
                yield node.name, "share", text


def _other_model(node: Node) -> str | None:
    if node.model is None:
        return None
    if not node.uses_adapter:
        return f"is set, and a node of type '{node.kind}' uses no model: leave it out"
    given = {"adapter": node.adapter != "own", "share": node.share, "start": node.start}
    for setting in [name for name, value in given.items() if value]:
        return f"is set, and '{setting}' says what the base model plays it with: leave one out"
    if isinstance(node.model, str):
        return None if node.model else "is an empty text, and must name a model"
    try:
        endpoint = Endpoint.of(node.model)
    except UsageError as error:
        return str(error)
    if node.scores:
        return (
            f"is the endpoint {endpoint.name}, and a node of type '{node.kind}' compares"
            " log-likelihoods of its own texts, which an endpoint does not give"
        )
    prompt = getattr(node, "prompt", None)
    if isinstance(prompt, Template) and prompt.chat and prompt.prefill:
        return (
            f"is the endpoint {endpoint.name}, which does not continue the prefill of the node's"
            " prompt: leave one of them out"
        )
    return None


def _alone(node: Node) -> str | None:
    if node.adapter == "none" and not node.uses_adapter:
        return f"is 'none', and a node of type '{node.kind}' never has one: leave it out"
    if node.adapter == "none" and node.share is not None:
        return f"is 'none', and share = '{node.share}' gives it one: leave one of them out"
    if node.adapter == "none" and node.start is not None:
        return f"is 'none', and start = {str(node.start)!r} gives it one: leave one of them out"
    return None


def _sharing(node: Node, by_name: Mapping[str, Node]) -> str | None:
    assert node.share is not None
    owner = by_name.get(node.share)
    what = f"is '{node.share}'"
    if node.share == node.name:
        return f"{what}, the node itself: leave it out"
    if owner is None:
        hint = did_you_mean(node.share, list(by_name))
        return f"{what}, which is no node of the task ({', '.join(by_name)}).{hint}"
    if not node.uses_adapter:
        return f"{what}, and a node of type '{node.kind}' uses no adapter: leave it out"
    if owner.share is not None:
        return (
            f"{what}, which itself shares the adapter of '{owner.share}': name the node whose"
            " adapter it is"
        )
    if not owner.uses_adapter or why_untrained(owner) is not None:
        return f"{what}, which has no adapter ({why_untrained(owner) or f'type {owner.kind!r}'})"
    if node.start is not None:
        return f"{what}, whose adapter starts where that node's 'start' says: leave 'start' out"
    if owner.learn == "nothing" and node.learn != "nothing":
        return (
            f"{what}, whose adapter stays as it is (learn = 'nothing'): let that node learn, or set"
            " learn = 'nothing' here, too"
        )
    return None
