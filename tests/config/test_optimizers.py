"""Which optimizer a node and its head learn with."""

from __future__ import annotations

from typing import Any

import pytest

from flowtune_cli.config.optimizers import OptimizerChoice, optimizer_choices, shared_choices
from flowtune_cli.config.settings import LearningSettings
from flowtune_cli.flow.errors import UsageError
from support.fake_engine import writer

ADAM = {"name": "adam", "lr": 0.1, "eps": 1e-6}


def choices(shared: Any, /, **node: Any) -> tuple[OptimizerChoice, OptimizerChoice]:
    return optimizer_choices(LearningSettings(optimizer=shared), writer("a", **node))


def test_without_settings_of_its_own_a_node_learns_as_all_do() -> None:
    shared = OptimizerChoice("cocob", {})
    assert choices("cocob") == (shared, shared)
    shared = OptimizerChoice("adam", {"lr": 0.1, "eps": 1e-6})
    assert choices(ADAM) == (shared, shared)


def test_options_replace_single_ones() -> None:
    own = OptimizerChoice("adam", {"lr": 0.2, "eps": 1e-6}, "a", "optimizer")
    assert choices(ADAM, optimizer={"lr": 0.2}) == (own, own)
    head = OptimizerChoice("adam", {"lr": 0.2, "eps": 1e-3}, "a", "head_optimizer")
    assert choices(ADAM, optimizer={"lr": 0.2}, head_optimizer={"eps": 1e-3}) == (own, head)
    head = OptimizerChoice("adam", {"lr": 0.1, "eps": 1e-3}, "a", "head_optimizer")
    assert choices(ADAM, head_optimizer={"eps": 1e-3})[1] == head


def test_a_name_makes_it_another_optimizer() -> None:
    own = OptimizerChoice("cocob", {"alpha": 3}, "a", "optimizer")
    assert choices(ADAM, optimizer={"name": "cocob", "alpha": 3}) == (own, own)
    own = OptimizerChoice("cocob", {}, "a", "optimizer")
    assert choices(ADAM, optimizer="cocob") == (own, own)
    _, head = choices(ADAM, head_optimizer="adam")
    assert head == OptimizerChoice("adam", {}, "a", "head_optimizer")


def test_a_head_cannot_have_another_optimizer_than_its_node() -> None:
    with pytest.raises(
        UsageError, match="cannot learn with 'cocob', as its adapter learns with 'a"
    ):
        choices(ADAM, head_optimizer={"name": "cocob"})


@pytest.mark.parametrize("wrong", [{}, {"lr": 1}, {"name": 3}])
def test_a_table_needs_a_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has no name: write"):
        choices(wrong)


def test_an_adapter_that_is_shared_has_its_owner_s_optimizer_and_heads_their_own() -> None:
    owner = writer("a", optimizer={"lr": 0.2})
    same = writer("b", share="a", optimizer={"lr": 0.2})
    head = writer("c", share="a", head_optimizer={"eps": 1e-3})
    adapter, heads = shared_choices(LearningSettings(optimizer=ADAM), [owner, same, head], owner)
    assert adapter == OptimizerChoice("adam", {"lr": 0.2, "eps": 1e-6}, "a", "optimizer")
    assert heads["a"] == heads["b"] == adapter
    assert heads["c"] == OptimizerChoice("adam", {"lr": 0.2, "eps": 1e-3}, "c", "head_optimizer")


@pytest.mark.parametrize("other", [{"lr": 0.3}, "adam", "cocob"])
def test_an_adapter_that_is_shared_has_one_optimizer(other: Any) -> None:
    owner, node = writer("a", optimizer={"lr": 0.2}), writer("b", share="a", optimizer=other)
    with pytest.raises(UsageError, match="'b' shares the adapter of node 'a', and has another"):
        shared_choices(LearningSettings(optimizer=ADAM), [owner, node], owner)
