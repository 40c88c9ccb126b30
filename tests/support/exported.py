"""A flow with a node of every kind, exported, and the code in the README of an export."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flowtune_cli import Chat, Example, Factor, Feature, Generate, Judge, Rank, Task, Template
from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.exports.folder import About, write_adapters
from flowtune_cli.flow.node import Node
from flowtune_cli.models.facts import base_model, texts
from flowtune_cli.registry import load_registry
from flowtune_cli.testing import TinySession

CONTEXT = "Facts: {facts}\n"


def overlap(inputs: Mapping[str, Any]) -> float:
    """How many words a candidate shares with the question."""
    return float(len(set(inputs["candidate"].split()) & set(inputs["question"].split())))


def nodes(*, contexts: bool = True) -> list[Node]:
    """A node of every kind, in every form.

    Args:
        contexts: those that read a context without the adapter, too.
    """
    asked = Template("Ask: {question} {facts}", system="Be {tone}.", separator="; ")
    learned: dict[str, Any] = {"reward": "r"}
    plain: list[Node] = [
        Generate(name="a", prompt=asked, max_new_tokens=9, **learned),
        Generate(
            name="ask",
            prompt=Template("Q: {question}\nA", prefill=": so", chat=False),
            stop=("\x00", "e", "</s>"),
            max_new_tokens=12,
            **learned,
        ),
        Generate(
            name="frozen", prompt=Template("{question}", prefill="I"), learn="nothing", stop=("0",)
        ),
        Chat(name="talk", max_new_tokens=7, **learned),
        Judge(name="choose", prompt=asked, labels=("1", "10", "no"), **learned),
        Judge(
            name="likely",
            prompt=Template("Q: {question}", chat=False),
            score="likelihood",
            text=("\nYes", Factor(" {tone}", Template("T", chat=False), weight=-0.5)),
            threshold=-5.0,
            **learned,
        ),
        Rank(
            name="best",
            prompt=Template("{question} {candidate}?"),
            features=(Feature("overlap", overlap, 0.5),),
            **learned,
        ),
        Rank(
            name="near",
            prompt=Template("{candidate}\n", chat=False),
            score="likelihood",
            text=("Q: {question}", Factor("{question}", Template("x", chat=False), -1.0)),
            **learned,
        ),
    ]
    if not contexts:
        return plain
    behind = Template("Q: {question}\nA:", chat=False, frozen_prefix=CONTEXT)
    return [
        *plain,
        Generate(name="behind", prompt=behind, max_new_tokens=8, **learned),
        Generate(
            name="only",
            prompt=Template(chat=False, frozen_prefix=CONTEXT),
            max_new_tokens=6,
            **learned,
        ),
        Judge(name="sure", prompt=behind, labels=(" Yes", " No"), **learned),
        Judge(
            name="proved",
            prompt=Template("Q", chat=False),
            score="likelihood",
            text=(Factor(" {question}", Template(chat=False, frozen_prefix=CONTEXT)),),
            threshold=-5.0,
            **learned,
        ),
        Rank(
            name="found",
            prompt=Template("!", chat=False, frozen_prefix="{candidate}\n"),
            score="likelihood",
            text="{question}",
            **learned,
        ),
    ]


class Everything(Task):
    """Calls each of its nodes once."""

    name = "everything"

    def examples(self, source: Any, split: str) -> Any:
        raise NotImplementedError

    async def run(self, episode: Any, example: Any) -> dict[str, Any]:
        results = {}
        for node in self.nodes:
            inputs = inputs_of(node, example.inputs)
            result = await episode.call(node.name, **inputs)
            results[node.name] = getattr(result, "text", result)
        return results


INPUTS: Sequence[Mapping[str, Any]] = tuple(
    {
        "question": question,
        "facts": facts,
        "tone": tone,
        "candidates": ["one red", "two", "three red cats"],
        "messages": [{"role": "system", "content": tone}, {"role": "user", "content": question}],
    }
    for question, facts, tone in [
        ("why red", ["one", "two two"], "brief"),
        ("who was it", ["cats are red"], "kind"),
        ("10 or 1", [], "loud"),
    ]
)


def inputs_of(node: Node, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of a node gives."""
    if isinstance(node, Chat):
        return {"messages": inputs["messages"]}
    own = {name: inputs[name] for name in ("question", "facts", "tone")}
    return {**own, "candidates": inputs["candidates"]} if isinstance(node, Rank) else own


def play(task: Task, session: TinySession) -> list[dict[str, Any]]:
    """What flowtune's nodes answer, for each of the inputs."""
    examples = [Example(str(n), dict(inputs)) for n, inputs in enumerate(INPUTS)]
    episodes = session.play(examples)
    assert [episode.failure for episode in episodes] == [None] * len(episodes)
    return [dict(episode.result) for episode in episodes]


def trained(task: Task, model: Path, **settings: Any) -> TinySession:
    """With adapters and heads that change what is answered."""
    session = TinySession(task, model, {"model": settings}, random_adapters=True)
    adapters = session._session.adapters
    with torch.no_grad():
        for node in task.nodes:
            if node.name in adapters.heads:
                adapters.heads[node.name].weights.add_(0.25)
    return session


def export(target: Path, task: Task, session: TinySession) -> dict[str, Any]:
    """Export the session's adapters as those of a checkpoint; returns flow.json."""
    settings = session._session.settings.model
    checkpoint = target.parent / "0000008"
    session._session.adapters.save(checkpoint / "adapters")
    (checkpoint / "state.json").write_text('{"nodes": {}}')
    about = about_model(settings)
    return write_adapters(target, checkpoint, about, task.nodes, overwrite=False)


def about_model(settings: ModelSettings) -> About:
    registry = load_registry()
    facts, template = texts(settings, registry)
    trained_by = {"flowtune": "0", "task": "everything", "run": "everything-001"}
    return About(base_model(settings, registry), facts, template, trained_by)


def readme_code(folder: Path, *headings: str) -> str:
    """The Python of the README's sections, as a reader would copy it."""
    sections = re.split(r"^## ", (folder / "README.md").read_text(encoding="utf-8"), flags=re.M)
    chosen = [s for s in sections if s.startswith(headings)]
    assert len(chosen) == len(headings)
    blocks = [code for s in chosen for code in re.findall(r"```python\n(.*?)```", s, flags=re.S)]
    return "\n\n".join(blocks)


def readme_command(folder: Path) -> list[str]:
    """The command of the README that serves the nodes."""
    [command] = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    return shlex.split(command.replace("\\\n", " "))


def ask_readme(code: Mapping[str, Any], node: Node, inputs: Mapping[str, Any]) -> Any:
    """What a node answers by the functions of a README."""
    given = inputs_of(node, inputs)
    if isinstance(node, Chat):
        return code["chat"](node.name, given["messages"])
    if isinstance(node, Rank):
        features = {feature.name: feature.function for feature in node.features}
        return code["rank"](node.name, given.pop("candidates"), features=features, **given)
    return code["judge" if isinstance(node, Judge) else "generate"](node.name, **given)
