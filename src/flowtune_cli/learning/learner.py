"""The learner: updates an adapter, and its nodes' heads, on their data of one mini-batch."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config.settings import LearningSettings
from ..engine.limits import Limits
from ..engine.prefix_cache import PrefixCache
from ..flow.errors import FlowtuneError
from ..flow.node import Datum
from ..models.out_of_memory import OutOfMemory, attempt, say_once
from ..models.tokens import Tokens
from .datum_losses import DatumLosses
from .gradient_sum import GradientSum
from .node_optimizers import NodeOptimizers
from .peers import ALONE, Peers
from .shares import Work, share


@dataclass(frozen=True)
class Update:
    """What one mini-batch did to one node.

    Args:
        data: how many data; ``preferences`` of them are preferences.
        steps: of the optimizer; nodes that share an adapter may have made one together.
        loss: mean over data, before their weights.
        margin: mean of beta times the policy's gain over the reference, over preferences.
        accuracy: share of preferences whose chosen output already gained on its rival.
        gradient_norm: mean over these steps of the infinity norm before clipping.
    """

    node: str
    data: int
    preferences: int
    steps: int
    loss: float
    margin: float | None
    accuracy: float | None
    gradient_norm: float


_READING = 0.25
"""What a token of a frozen prefix takes to be read, in tokens that are learned from: these are read
with gradients, which takes three times as long, and once more under the reference."""

_LEAST_BUDGET = 32
"""Tokens of the smallest parts that are tried before each datum goes alone, layer by layer."""


class _Figures(NamedTuple):
    """What was read of one datum: its loss, and the margin of a preference."""

    node: str
    loss: float
    margin: float | None


class _Group(NamedTuple):
    """The data of one step of an adapter; ``total`` is the number that losses are divided by."""

    adapter: str
    data: Sequence[Datum]
    total: int


class Learner:
    """Updates the adapters and heads of nodes.

    Args:
        prefixes: of the model with all adapters; caches frozen prefixes.
        tokens: encodes prompts exactly as the engine does.
        settings: beta, clipping and steps.
        optimizers: of the adapters.
        limits: tokens in one forward pass that keeps gradients.
    """

    def __init__(
        self,
        prefixes: PrefixCache,
        tokens: Tokens,
        settings: LearningSettings,
        optimizers: NodeOptimizers,
        limits: Limits,
    ) -> None:
        self.prefixes = prefixes
        self.adapters = prefixes.adapters
        self.losses = DatumLosses(prefixes, tokens, settings.beta)
        self.settings = settings
        self.optimizers = optimizers
        self.tokens_per_batch = limits.learning_tokens_per_batch

    def update(self, adapter: str, data: Mapping[str, Sequence[Datum]]) -> dict[str, Update]:
        """Learn from one mini-batch: one step per datum, or one for all of them.

        Each loss is weighted by its datum's weight over the number of all data, whichever of the
        adapter's nodes they are of.

        Args:
            data: of each node that uses the adapter and has some; learned from in this order.

        Returns:
            What it did to each of these nodes.

        Raises:
            FlowtuneError: a loss or gradient is not finite; the weights are as before that step.
                Or a datum is of another node, whose adapter this is not.
        """
        if self.settings.step_per == "batch":
            return self.update_together({adapter: data})[adapter]
        together = self._all_data(adapter, data)
        found: dict[str, list[_Figures]] = {node: [] for node in data}
        norms: dict[str, list[float]] = {node: [] for node in data}
        for datum in together:
            group = _Group(adapter, [datum], len(together))
            found[datum.node] += self._gradients([group], ALONE)[0]
            norms[datum.node].append(self._norm(group))
            self._step(group)
        self.adapters.versions[adapter] += 1
        return {node: _update(node, found[node], norms[node]) for node in data}

    def update_together(
        self, data: Mapping[str, Mapping[str, Sequence[Datum]]], peers: Peers = ALONE
    ) -> dict[str, dict[str, Update]]:
        """Learn from one mini-batch, one step for each adapter; see ``update``.

        Args:
            data: by adapter.
            peers: share out the work; all make the same updates, of the same data.

        Raises:
            FlowtuneError: see ``update``; other adapters may have made their steps.
        """
        together = {adapter: self._all_data(adapter, of_it) for adapter, of_it in data.items()}
        groups = [_Group(adapter, of_it, len(of_it)) for adapter, of_it in together.items()]
        # A single process has the gradients of one adapter in memory at a time.
        at_once = [[group] for group in groups] if peers.size == 1 else [groups]
        found = {}
        for some in at_once:
            for group, figures in zip(some, self._gradients(some, peers), strict=True):
                norm = self._norm(group)
                self._step(group)
                self.adapters.versions[group.adapter] += 1
                found[group.adapter] = {
                    node: _update(node, [each for each in figures if each.node == node], [norm])
                    for node in data[group.adapter]
                }
        return found

    def _all_data(self, adapter: str, data: Mapping[str, Sequence[Datum]]) -> list[Datum]:
        for node, datum in ((node, datum) for node, of_node in data.items() for datum in of_node):
            if datum.node != node or self.adapters.owners.get(node) != adapter:
                raise FlowtuneError(
                    f"a datum of node '{datum.node}' cannot teach node '{node}' and its adapter,"
                    f" '{adapter}': a node's data have its own name"
                )
        return [datum for of_node in data.values() for datum in of_node]

    def _norm(self, group: _Group) -> float:
        """Clip the gradients; their norm before."""
        # The gradients of an adapter and of its heads differ in size.
        groups = self.optimizers[group.adapter].param_groups
        return max(self._clip(group.adapter, each["params"], group.data) for each in groups)

    def _step(self, group: _Group) -> None:
        optimizer = self.optimizers[group.adapter]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.adapters.check_finite([group.adapter])

    def _gradients(self, groups: Sequence[_Group], peers: Peers) -> list[list[_Figures]]:
        """Put the gradients of groups' losses into the parameters; each is of another adapter.

        Groups are cut into parts by their data alone, whatever the number of processes. Each
        process computes the gradients of some, and their sum does not depend on the order.
        """
        first = float(self.tokens_per_batch)
        by_group = [self.losses.parts(group.data, first) for group in groups]
        parts = [(number, part) for number, found in enumerate(by_group) for part in found]
        own = self.share([part for _, part in parts], peers)
        sums = [
            GradientSum(self.adapters.parameters(group.adapter), len(found))
            for group, found in zip(groups, by_group, strict=True)
        ]

        def work() -> tuple[dict[int, list[_Figures]], list[list[bool]]]:
            budget = first
            found = {}
            try:
                for place in own:
                    number, part = parts[place]
                    group = groups[number]
                    found[place], budget = self._gradients_of_part(
                        group.adapter, part, group.total, budget
                    )
                    sums[number].add()
                    peers.check()
            except BaseException:
                for group in groups:
                    self.optimizers[group.adapter].zero_grad(set_to_none=True)
                raise
            return found, [each.present for each in sums]

        each = peers.each(work)
        for number, gradients in enumerate(sums):
            gradients.put([present[number] for _, present in each], peers)
        by_place = {place: found for of_one, _ in each for place, found in of_one.items()}
        figures: list[list[_Figures]] = [[] for _ in groups]
        for place, (number, _) in enumerate(parts):
            figures[number] += by_place[place]
        return figures

    def _gradients_of_part(
        self, adapter: str, part: Sequence[Datum], total: int, budget: float
    ) -> tuple[list[_Figures], float]:
        """Put the gradients of a part's losses into the parameters.

        Where memory is short, all of the part begins again in smaller pieces.

        Args:
            budget: tokens of a piece.

        Returns:
            Its figures, and the tokens of a piece that there was memory for.
        """
        freed = False
        while True:
            # A part was cut by the first budget already.
            whole = budget >= self.tokens_per_batch
            pieces = [list(part)] if whole else self.losses.parts(part, budget)
            reason, found = attempt(partial(self._gradients_of, adapter, pieces, total, budget))
            if found is not None:
                return found, budget
            if self.prefixes.free() and not freed:
                freed = True
                continue
            say_once("learning")
            # What a smaller budget leaves as it is need not be tried again.
            plan = self._plan(pieces, budget)
            while self._plan(self.losses.parts(part, budget), budget) == plan:
                if budget == 0:
                    raise OutOfMemory(f"memory ran out while learning from one datum: {reason}.")
                budget = budget / 2 if budget > _LEAST_BUDGET else 0.0

    def _gradients_of(
        self, adapter: str, parts: Sequence[Sequence[Datum]], total: int, budget: float
    ) -> list[_Figures]:
        """See ``_gradients_of_part``; begins with none, so it may be called again."""
        self.optimizers[adapter].zero_grad(set_to_none=True)
        figures: list[_Figures] = []
        for part in parts:
            loss = torch.zeros(())
            found = self.losses.of(adapter, part, budget)
            for datum, (value, _) in zip(part, found, strict=True):
                loss = loss.to(value.device) + value * (datum.weight / total)
            gains = [gain for _, gain in found if gain is not None]
            # All figures at once, as each one read would wait for the device.
            of_loss, *read = torch.stack([loss, *(value for value, _ in found), *gains]).tolist()
            read_gains = iter(read[len(found) :])
            for datum, value, (_, gain) in zip(part, read, found, strict=False):
                margin = None if gain is None else self.settings.beta * next(read_gains)
                figures.append(_Figures(datum.node, value, margin))
            if not math.isfinite(of_loss):
                raise _not_finite("loss", adapter, of_loss, part)
            with self.adapters.using(adapter):
                loss.backward()  # type: ignore[no-untyped-call]
        return figures

    def _clip(self, adapter: str, parameters: Sequence[Tensor], data: Sequence[Datum]) -> float:
        clipped = torch.nn.utils.clip_grad_norm_(
            [p for p in parameters if p.grad is not None], self.settings.clip, norm_type=math.inf
        )
        norm = float(clipped)
        if not math.isfinite(norm):
            raise _not_finite("gradient", adapter, norm, data)
        return norm

    def _plan(self, parts: Sequence[Sequence[Datum]], budget: float) -> list[tuple[int, bool]]:
        """Of each part: how many data it has, and whether its layers are computed twice."""
        return [(len(part), self.losses.graph_tokens(part) > budget) for part in parts]

    def share(self, parts: Sequence[Sequence[Datum]], peers: Peers) -> list[int]:
        """The places of the parts that this process learns from, see ``shares.assign``.

        Frozen prefixes are read by who has played them, if possible.
        """
        if peers.size == 1:  # which need not know what they cost
            return list(range(len(parts)))

        def cost(part: Sequence[Datum]) -> float:
            # With a step a datum, each is read by itself.
            at_once = self.settings.step_per == "batch"
            pieces = [part] if at_once else [[datum] for datum in part]
            return sum(map(self.losses.graph_tokens, pieces))

        def needs(part: Sequence[Datum]) -> dict[Hashable, float]:
            return {ids: _READING * len(ids) for ids in sorted(self.losses.frozen_prefixes(part))}

        work = [Work(cost(part), needs(part)) for part in parts]
        return share(work, peers, self.prefixes.remembers)

    def state(self, adapter: str) -> dict[str, Any]:
        """All that updates change of a node, on the CPU: it can be pickled, see ``set_state``."""
        weights = [p.detach().cpu() for p in self.adapters.parameters(adapter)]
        return {
            "weights": weights,
            "optimizer": self.optimizers.state(adapter),
            "version": self.adapters.version(adapter),
        }

    @torch.no_grad()
    def set_state(self, adapter: str, state: Mapping[str, Any]) -> None:
        """Make an adapter, its heads and its optimizer what they were in another process."""
        for own, other in zip(self.adapters.parameters(adapter), state["weights"], strict=True):
            own.copy_(other)
        self.optimizers.set_state(adapter, state["optimizer"])
        self.adapters.versions[adapter] = state["version"]


def _update(node: str, found: Sequence[_Figures], norms: Sequence[float]) -> Update:
    margins = [each.margin for each in found if each.margin is not None]
    return Update(
        node=node,
        data=len(found),
        preferences=len(margins),
        steps=len(norms),
        loss=sum(each.loss for each in found) / len(found),
        margin=sum(margins) / len(margins) if margins else None,
        accuracy=sum(m > 0 for m in margins) / len(margins) if margins else None,
        gradient_norm=sum(norms) / len(norms),
    )


_HEAVY = 1e4
"""A larger weight than this is the likelier cause of a number that is not finite than a step."""


def _not_finite(what: str, node: str, value: float, data: Sequence[Datum]) -> FlowtuneError:
    """The error for a loss or gradient that is not finite, with its likeliest cause."""
    heaviest = max(abs(datum.weight) for datum in data)
    advice = "Lower the step size (learning.optimizer) or use float32."
    if not heaviest <= _HEAVY:  # NaN too
        advice = (
            f"A datum weighs {heaviest:g}, the difference of two rewards times the node's 'weight':"
            " scale the reward to about one, or lower the weight."
        )
    return FlowtuneError(
        f"the {what} of node '{node}' is {value}: its step was not taken. {advice}"
    )
