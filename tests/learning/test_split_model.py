"""An update of a model that is split over devices moves its adapters as on one.

The devices do not exist, see ``support.pretend_devices``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowtune_cli.config.settings import LearningSettings
from flowtune_cli.engine.adapters import Adapters
from flowtune_cli.engine.limits import Limits
from flowtune_cli.engine.prefix_cache import PrefixCache
from flowtune_cli.flow.node import ChoiceDatum, Datum, PreferenceDatum, Score, Term, TextDatum
from flowtune_cli.learning import optimizer_trial
from flowtune_cli.learning.learner import Learner
from flowtune_cli.learning.node_optimizers import NodeOptimizers
from flowtune_cli.learning.optimizers import cocob
from flowtune_cli.models.loading import LoadedModel
from flowtune_cli.models.tokens import Tokens
from support.device import DEVICE
from support.fake_engine import writer
from support.pretend_devices import FIRST, SECOND, pretending, split
from support.tiny import make_adapters, make_model, plain, state, text

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="what is pretended lies on the processor")

CHOSEN, REJECTED = (Score((Term(plain("one "), text(5 + n, n)),)) for n in range(2))
LABELS = tuple(Score((Term(plain("one "), label),)) for label in ("Yes", "No"))
DATA: list[Datum] = [
    PreferenceDatum("a", CHOSEN, REJECTED, 0.3),
    TextDatum("a", plain("two and more "), "gold text", 2.0),
    ChoiceDatum("a", LABELS, 1, 0.5),
]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


@pytest.fixture
def devices() -> Iterator[None]:
    with pretending():
        yield


def update(
    adapters: Adapters, loaded: LoadedModel, optimizer: Callable[..., Any], per: Any
) -> None:
    settings = LearningSettings(optimizer="chosen", step_per=per)
    limits = Limits(learning_tokens_per_batch=16)
    nodes = {"a": writer("a")}
    Learner(
        PrefixCache(adapters, limits),
        Tokens(loaded.tokenizer, loaded.context),
        settings,
        NodeOptimizers(adapters, settings, nodes, {"chosen": optimizer}),
        limits,
    ).update("a", {"a": DATA})


@pytest.mark.parametrize("per", ["datum", "batch"])
@pytest.mark.parametrize("optimizer", [sgd, cocob])
def test_an_update_is_the_same(
    tiny_model: LoadedModel, devices: None, optimizer: Callable[..., Any], per: str
) -> None:
    moved, distances = [], []
    for parts in ((), (FIRST, SECOND)):
        loaded = make_model("Llama", tiny_model)
        if parts:
            split(loaded.model, *parts)
        adapters = make_adapters(loaded, {"a": {"bias": 1.0}})
        before = state(adapters, "a")
        update(adapters, loaded, optimizer, per)
        after = state(adapters, "a")
        moved.append([(new - old).cpu() for new, old in zip(after, before, strict=True)])
        distances.append(adapters.distance("a"))
        assert [x.device for x in after] == [x.device for x in before]
    assert distances[1] == pytest.approx(distances[0], rel=1e-3)
    assert all(map(torch.any, moved[1][:-1]))
    if optimizer is sgd:  # the first steps of COCOB go by signs, of sums near zero, too
        for one, other in zip(*moved, strict=True):
            assert torch.allclose(one, other, atol=1e-4, rtol=1e-2)


def test_a_trial_of_an_optimizer_leaves_the_draws_of_all_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def fork(devices: list[torch.device]) -> AbstractContextManager[None]:
        asked.append([str(device) for device in devices])
        return nullcontext()

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(optimizer_trial, "_steps", lambda *_, **__: [])
    names = ["cuda:0", "cuda:0", "cuda:1", "cpu"]
    parameters: list[Any] = [SimpleNamespace(device=torch.device(name)) for name in names]
    choice: Any = SimpleNamespace(where="here", name="chosen")
    optimizer_trial.check_resumes(sgd, parameters, choice)
    assert asked == [["cuda:0", "cuda:1"]]
