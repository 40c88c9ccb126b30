"""The presets of the MuSiQue tasks."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.config.resolve import Resolved, resolve
from flowtune_cli.registry import load_registry

TASKS = ("musique-answerable", "musique-full")
PHI = "microsoft/Phi-3-medium-128k-instruct"


def resolved(task: str, **flags: Any) -> Resolved:
    registry = load_registry()
    return resolve(registry.task(task), environ={}, flags=flags, registry=registry)


@pytest.mark.parametrize("task", TASKS)
def test_paper_is_what_these_options_were(task: str) -> None:
    found = resolved(task, preset="paper", **{"model.name": PHI})
    settings, made = found.settings, found.make_task()
    assert (settings.model.name, settings.model.quantization) == (PHI, "nf4")
    assert (settings.adapter.rank, settings.adapter.targets) == (8, "auto")
    assert settings.adapter.rslora
    assert settings.learning.optimizer == {"name": "cocob", "alpha": 1000.0}
    assert settings.learning.step_per == "datum"
    assert (settings.learning.beta, settings.learning.clip) == (1.0, 1.0)
    assert settings.learning.reference_weight == 0.5
    assert (settings.training.save_every, settings.training.passes) == (100, 1)
    assert (made.settings.ranking, made.settings.judging) == ("choice", "choice")
    assert (made.settings.min_retrievals, made.settings.max_retrievals) == (1, 4)
    assert all(node.optimizer is node.head_optimizer is None for node in made.nodes)
    learn = {node.name: node.learn for node in made.nodes}
    assert learn.pop("sufficiency", "supervised") == "supervised"
    assert learn == {
        "query": "preferences",
        "retrieve": "supervised",
        "stop": "supervised",
        "verbose": "preferences",
        "concise": "supervised",
    }


@pytest.mark.parametrize("task", TASKS)
def test_small_is_the_default_with_the_bundled_model_alone(task: str) -> None:
    found = resolved(task)
    assert found.settings.preset == "small"
    assert found.settings.learning.optimizer == {"name": "adam", "lr": 1e-3}
    assert found.settings.learning.step_per == "batch"
    rates = {
        node.name: (node.optimizer, node.head_optimizer)
        for node in found.make_task().nodes
        if (node.optimizer, node.head_optimizer) != (None, None)
    }
    if task == "musique-full":
        assert rates.pop("sufficiency") == ({"lr": 1e-4}, {"lr": 0.01})
    assert rates == {"retrieve": ({"lr": 1e-5}, {"lr": 0.1}), "verbose": ({"lr": 1e-4}, None)}

    other = resolved(task, **{"model.name": PHI})
    assert other.settings.preset is None
    assert other.settings.learning.optimizer == "cocob"
    assert other.settings.learning.step_per == "batch"
