"""Nodes that another model plays, loaded beside the base model: frozen, and played alone."""

from __future__ import annotations

import asyncio
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.errors import UsageError
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import Node
from flowtune_cli.flow.prompt import Template
from flowtune_cli.nodes import Judge
from support.fake_engine import digest, writer
from support.tiny_training import Run, selected

MakeRun = Callable[..., Run]


@pytest.fixture
def other(tiny_model_dir: Path, tmp_path: Path) -> str:
    """Another tiny model: the same with other weights."""
    directory = shutil.copytree(tiny_model_dir, tmp_path / "other")
    [file] = directory.glob("*.safetensors")
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: each + 0.3 * torch.randn(each.shape, generator=generator).to(each)
        for name, each in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})
    return str(directory)


def nodes(other: str | None) -> list[Node]:
    def judge(name: str, model: str | None) -> Node:
        prompt = Template("{x}?", chat=False)
        return Judge(name=name, prompt=prompt, learn="nothing", model=model)

    return [
        writer("draft", "good", max_new_tokens=3),
        writer("far", "good", max_new_tokens=4, model=other),
        judge("check", other),
    ]


async def flow(episode: Episode, example: Example) -> Any:
    draft = await episode.call("draft", x=example.question)
    far, good = await asyncio.gather(
        episode.call("far", x=draft), episode.call("check", x=example.question)
    )
    episode.reward("good", digest(draft, far) % 5 / 4)
    return {"far": far, "good": good}


def outputs(session: Any, examples: Any) -> list[Any]:
    played = dict(session.play(examples))
    return [
        [(step.node, step.output.value, step.response.detail) for step in played[n].steps[1:]]
        for n in range(len(examples))
    ]


def test_it_answers_as_it_does_alone_and_learns_nothing(make_run: MakeRun, other: str) -> None:
    run = make_run(flow=flow, nodes=lambda: nodes(other), gate=None, count=2, save_every=2)
    trainer = run.train()
    session = trainer.session
    assert session.adapters.nodes == ("draft",)
    assert {name for (name,) in selected(run, "SELECT node FROM updates")} <= {"draft"}
    far = selected(run, "SELECT DISTINCT adapter_version FROM steps WHERE node = 'far'")
    assert far == [(0,)]

    # What the base model would have said is something else; alone, the other one says the same.
    questions = run.examples
    said = outputs(session, questions)
    drafts = [dict(session.play([q]))[0].steps[0].output.value for q in questions]
    base = make_run(flow=flow, nodes=lambda: nodes(None), gate=None, count=2).session()
    assert outputs(base, questions) != said
    settings = run.settings.model_copy(
        update={"model": run.settings.model.model_copy(update={"name": other})}
    )

    async def again(episode: Episode, example: Example) -> Any:
        await episode.call("draft", x="")
        draft = drafts[questions.index(example)]
        await asyncio.gather(
            episode.call("far", x=draft), episode.call("check", x=example.question)
        )

    alone = copy.copy(run)
    alone.settings, alone.flow = settings, again
    alone.nodes = lambda: [
        *nodes(None)[:1],
        writer("far", "good", max_new_tokens=4, adapter="none"),
        nodes(None)[2],
    ]
    assert outputs(alone.session(), questions) == said

    # While a flow waits for something else, requests come one by one.
    async def waiting(episode: Episode, example: Example) -> Any:
        await asyncio.sleep(0.01)
        return await flow(episode, example)

    session.task.flow = waiting  # type: ignore[attr-defined]
    session.engine.forget()
    assert not session.engine.others[other].answers_held
    assert outputs(session, questions) == said
    assert session.engine.answers_held > session.engine.others[other].answers_held > 0


def test_what_cannot_be_loaded_names_the_node(make_run: MakeRun, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    run = make_run(flow=flow, nodes=lambda: nodes(nowhere), gate=None)
    with pytest.raises(UsageError, match="the model of node 'far': "):
        run.session()
    run.nodes = lambda: nodes(run.settings.model.name)
    with pytest.raises(UsageError, match=r"node 'far': its model, .* is the base model: set adap"):
        run.session()
