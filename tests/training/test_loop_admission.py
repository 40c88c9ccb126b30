"""Training looks at its first mini-batch before it learns from it, and changes nothing by that."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import openai
import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.gateway.client import async_client
from flowtune_cli.training import loop
from flowtune_cli.training.admission.examine import Refused
from support.chat_flows import USER
from support.fake_engine import digest, writer
from support.runs_compared import learned, rows
from support.tiny_training import Run, selected

MakeRun = Callable[..., Run]


def test_a_run_is_the_same_to_the_bit_with_and_without_it(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = make_run()
    looked.train()
    monkeypatch.setattr(loop, "admit", lambda *args, **options: [])
    unseen = make_run()
    unseen.train()
    assert learned(looked.directory.path) == learned(unseen.directory.path)
    assert rows(looked.directory.path) == rows(unseen.directory.path)


def test_it_asks_nothing_of_the_model_and_happens_once(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    trainer = run.trainer()
    times, asked = [], []
    answer, admit = trainer.session.engine.answer, loop.admit

    def counted(requests: Any) -> Any:
        asked.append(len(requests))
        return answer(requests)

    def admitted(task: Any, traces: Any, **options: Any) -> Any:
        before = len(asked)
        found = admit(task, traces, **options)
        times.append((len(traces), len(asked) - before))
        return found

    monkeypatch.setattr(trainer.session.engine, "answer", counted)
    monkeypatch.setattr(loop, "admit", admitted)
    trainer.train()
    assert times == [(2, 0)]
    assert asked
    resumed = run.trainer()
    resumed.train()
    assert len(times) == 1


def changing() -> Any:
    numbers = itertools.count()

    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=next(numbers))
        episode.reward("draft", digest(text) % 5 / 4)

    return flow


def one_node(reward: str | None = "draft") -> list[Any]:
    return [writer("draft", reward, max_new_tokens=4)]


def test_a_flow_that_does_not_replay_is_refused_and_nothing_is_stored(make_run: MakeRun) -> None:
    run = make_run(flow=changing(), nodes=one_node, gate="draft", max_failures=1.0)
    trainer = run.trainer()
    with pytest.raises(Refused, match="node 'draft' is shown something else when the flow is play"):
        trainer.train()
    assert selected(run, "SELECT count(*) FROM episodes") == [(0,)]
    assert trainer.session.adapters.version("draft") == 0


def test_what_is_not_sure_is_told_and_training_goes_on(make_run: MakeRun) -> None:
    async def flow(episode: Episode, example: Example) -> None:
        await episode.call("draft", x=f"{example.question} {example.gold}")

    run = make_run(flow=flow, nodes=one_node, gate=None)
    found: list[Any] = []
    run.trainer(on_findings=found.extend).train()
    # The tiny model never ends.
    codes = [each.code for each in found if each.code != "output-truncated"]
    assert codes == ["reward-unreported", "gold-in-prompt"]
    assert selected(run, "SELECT count(*) FROM episodes") == [(8,)]


def test_requests_that_fail_unnoticed_later_on_are_told_once(make_run: MakeRun) -> None:
    played: list[str] = []

    async def flow(episode: Episode, example: Example) -> None:
        text = await episode.call("draft", x=example.question)
        played.append(example.id)
        if len(set(played)) > 2:
            with contextlib.suppress(openai.NotFoundError):
                await async_client(episode).chat.completions.create(model="other", messages=USER)
        episode.reward("draft", digest(text) % 5 / 4)

    run = make_run(flow=flow, nodes=one_node, gate=None)
    found: list[Any] = []
    run.trainer(on_findings=found.extend).train()
    assert [each.code for each in found if each.code != "output-truncated"] == ["model-not-found"]
    assert selected(run, "SELECT count(*) FROM episodes") == [(8,)]
