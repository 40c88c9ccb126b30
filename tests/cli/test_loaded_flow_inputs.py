"""What a loaded flow does with inputs, and what it says of prompts that were cut; on a script."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flowtune_cli import LoadedFlow
from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.runtime.scheduler import Scheduler
from support.fake_engine import FakeEngine, FlowTask, write_letters, writer


class Cutting(FakeEngine):
    """Drops so many tokens of each prompt."""

    def __init__(self, dropped: int) -> None:
        super().__init__(write_letters)
        self.dropped = dropped

    def answer(self, requests: Any) -> Any:
        return [replace(each, dropped_tokens=self.dropped) for each in super().answer(requests)]


@contextmanager
def loaded(flow: Any, engine: Any = None) -> Iterator[LoadedFlow]:
    engine = engine or Cutting(0)
    session: Any = SimpleNamespace(
        task=FlowTask([writer("a")], flow),
        settings=SimpleNamespace(training=SimpleNamespace(seed=0)),
        engine=SimpleNamespace(answers_held=0),
        scheduler=lambda between: Scheduler(engine),
    )
    with closing(LoadedFlow(session)) as made:
        yield made


def test_a_list_that_changes_meanwhile_is_that_of_the_call() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        await episode.call("a", x="1")
        seen = [list(example.documents), dict(example.options)]
        example.documents.clear()
        return seen

    documents = ["first"]
    options = {"deep": [{"er": 1}]}
    with loaded(flow) as made:
        waiting = made.submit(documents=documents, options=options)
        documents[:] = ["second"]
        options["deep"][0]["er"] = 2
        assert waiting.result(20) == [["first"], {"deep": [{"er": 1}]}]
        assert made.run(documents=documents, options=options)[0] == ["second"]
    assert documents == ["second"]  # the flow's own was emptied


def test_other_objects_are_given_as_they_are() -> None:
    async def flow(episode: Episode, example: Example) -> Any:
        return example.thing

    thing = object()
    with loaded(flow) as made:
        assert made.run(thing=thing) is thing


async def ask(episode: Episode, example: Example) -> Any:
    return await episode.call("a", x="1")


def test_a_prompt_that_is_cut_is_warned_of() -> None:
    with (
        loaded(ask, Cutting(3)) as made,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        assert made.run(x=1) == "A"
    assert ["a prompt of node 'a' was cut" in str(each.message) for each in caught] == [True]
    with loaded(ask) as made:
        assert made.run(x=1) == "A"


def test_a_warning_that_is_an_error_is_the_calls() -> None:
    with loaded(ask, Cutting(3)) as made, pytest.raises(UserWarning, match="was cut"):
        made.run(x=1)
