"""flowtune's own nodes, strategies, rewards and optimizers: through the same door as any plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .hookspecs import hookimpl


@hookimpl
def register_node_types(register: Callable[[type], None]) -> None:
    from ..nodes import Chat, Generate, Judge, Rank

    for node_type in (Generate, Chat, Judge, Rank):
        register(node_type)


@hookimpl
def register_explorations(register: Callable[[type], None]) -> None:
    from ..exploration import DiverseBeam, MultiSample

    for exploration in (DiverseBeam, MultiSample):
        register(exploration)


@hookimpl
def register_rewards(register: Callable[[Any], None]) -> None:
    from ..rewards import LLMJudge, exact_match, token_f1

    for reward in (exact_match, token_f1, LLMJudge):
        register(reward)


@hookimpl
def register_optimizers(register: Callable[[str, Callable[..., Any]], None]) -> None:
    from ..learning.optimizers import adam, adam8bit, cocob

    register("cocob", cocob)
    register("adam", adam)
    register("adam8bit", adam8bit)


@hookimpl
def register_trackers(register: Callable[[str, Callable[..., Any]], None]) -> None:
    from ..trackers.tensorboard import TensorBoard
    from ..trackers.trackio import Trackio
    from ..trackers.wandb import WeightsAndBiases

    register("tensorboard", TensorBoard)
    register("trackio", Trackio)
    register("wandb", WeightsAndBiases)
