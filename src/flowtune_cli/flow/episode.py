"""An episode: one run of a flow on one example, step by step, with the rewards that it stated."""

from __future__ import annotations

import copy
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..runtime.scheduler import ask, park
from .errors import ReplayError, UsageError, unknown_name
from .example import Example
from .node import Call, Exploration, Node, NodeOutput, Response


@dataclass(frozen=True)
class Step:
    """One node call of an episode: what the node was shown and answered, and what the flow got."""

    index: int
    node: str
    shown: str
    response: Response
    output: NodeOutput
    substituted: bool = False


@dataclass(frozen=True)
class Stated:
    """A reward as the flow stated it, when ``steps`` calls had been made; None is undefined."""

    name: str
    value: float | None
    steps: int


@dataclass(frozen=True)
class Target:
    """What would have been the right output of a step."""

    step: int
    gold: Any


@dataclass(frozen=True)
class Failure:
    """An exception that ended a flow, with its traceback."""

    error: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class _Raised:
    """The exception that an effect ended with, raised again wherever the effect is replayed."""

    error: Exception


Effects = dict[tuple[str, str, int], Any]


@dataclass
class Plan:
    """What makes one run of a flow differ from another.

    Args:
        explore: the strategy of each node whose alternatives are wanted, by node name.
        replayed: steps of an earlier run whose outputs are given again, in order.
        substitute: the output given at the step after the replayed ones, in place of its own.
        judged: alternatives are wanted to compare rewards, so there are none for a node whose
            reward is said to be undefined.
        until: the reward after whose statement, behind the substituted step, nothing is needed.
    """

    explore: Mapping[str, Exploration] = field(default_factory=dict)
    replayed: Sequence[Step] = ()
    substitute: tuple[Step, NodeOutput] | None = None
    judged: bool = False
    until: str | None = None


class Episode:
    """What a flow holds in its hands while it runs, and what is left when it has ended.

    A flow awaits ``call`` and uses ``reward``, ``target`` and ``effect``; afterwards ``steps``,
    ``rewards``, ``targets``, ``result`` and ``failure`` tell what happened.
    """

    def __init__(
        self,
        example: Example,
        nodes: Mapping[str, Node],
        *,
        plan: Plan | None = None,
        seed: int = 0,
        effects: Effects | None = None,
    ) -> None:
        self.example = example
        self.nodes = nodes
        self.plan = plan or Plan()
        self.seed = seed
        self.steps: list[Step] = []
        self.rewards: list[Stated] = []
        self.targets: list[Target] = []
        self.result: Any = None
        self.failure: Failure | None = None
        self.stopped_early = False
        self.effects: Effects = {} if effects is None else effects
        self._effects_seen: dict[tuple[str, str], int] = {}
        self._undefined: set[str] = set()

    # What a flow uses

    async def call(self, node: str, **inputs: Any) -> Any:
        """Await a node's output for these inputs.

        Raises:
            UsageError: the task has no such node, or its prompt asks for an input not given.
            ReplayError: the flow was replayed and did not make the same call again.
        """
        if self.decided:
            self.stopped_early = True
            await park()
        if node not in self.nodes:
            raise unknown_name("node", node, list(self.nodes))
        index = len(self.steps)
        plan = self.plan
        shown = self.nodes[node].shown(inputs)
        if index < len(plan.replayed):
            step = plan.replayed[index]
            _check_replay(step, node, shown)
        elif index == len(plan.replayed) and plan.substitute is not None:
            original, output = plan.substitute
            _check_replay(original, node, shown)
            step = replace(original, output=output, substituted=True)
        else:
            seed = (self.seed, self.example.id, index)
            call = Call(inputs, ask, self._exploration(node), seed)
            response = await self.nodes[node].respond(call)
            step = Step(index, node, shown, response, response.outputs[0])
        self.steps.append(step)
        return self.steps[-1].output.value

    def reward(self, name: str, value: float | None) -> None:
        """State a reward as soon as it is known; None means undefined for this example.

        A reward may be stated again after later steps (say, once a loop): a step is judged by
        the first statement after it, and the episode's figure is the mean of them all.

        Raises:
            ValueError: the value is infinite or not a number.
        """
        if value is not None:
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(
                    f"reward '{name}' was stated as {value}; it must be finite, or None where it"
                    " is undefined"
                )
        self.rewards.append(Stated(name, value, len(self.steps)))

    def undefined(self, *names: str) -> None:
        """Say beforehand that these rewards will be undefined for this example.

        From now on no alternatives are tried for nodes that are judged by them. The rewards are
        still to be stated, as None, where the flow states them.
        """
        self._undefined.update(names)

    def target(self, node: str, gold: Any) -> None:
        """Say what would have been the right output of the node's latest call.

        Rollouts leave this out: their targets are not learned from.

        Raises:
            ValueError: the node was not called before.
        """
        if self.plan.substitute is not None:
            return
        for step in reversed(self.steps):
            if step.node == node:
                self.targets.append(Target(step.index, gold))
                return
        raise ValueError(f"a target was given for node '{node}', which was not called before")

    def effect(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a side effect or a slow tool once; this episode's rollouts get the same result.

        Each run of the flow gets a copy, and may change it. An exception that the function raised
        is raised again in the rollouts, as a flow may have caught it.
        Functions are told apart by their qualified names alone: where one name stands for several
        (methods of several objects, lambdas), let an argument say which it is.

        Args:
            function: called with ``args`` unless this episode, or the one that it deviates from,
                did so before (as often as this time).
            args: JSON values; they tell one run of the function from another.

        Raises:
            UsageError: the arguments are not JSON values.
        """
        name = f"{function.__module__}.{function.__qualname__}"
        try:
            key = (name, json.dumps(args, sort_keys=True))
        except TypeError as error:
            raise UsageError(f"effect {name}: its arguments must be JSON values: {error}") from None
        times = self._effects_seen.get(key, 0)
        self._effects_seen[key] = times + 1
        run = (*key, times)
        if run not in self.effects:
            try:
                self.effects[run] = function(*args)
            except Exception as error:
                self.effects[run] = _Raised(error)
                raise
        result = self.effects[run]
        if isinstance(result, _Raised):
            raise result.error.with_traceback(None)
        return copy.deepcopy(result)

    def _exploration(self, node: str) -> Exploration | None:
        chosen = self.nodes[node]
        if self.plan.judged and not chosen.evaluator and chosen.reward in self._undefined:
            return None
        return self.plan.explore.get(node)

    # What is read off it afterwards

    @property
    def last(self) -> Step:
        """The latest step, for flows that need a score beside the value."""
        return self.steps[-1]

    @property
    def decided(self) -> bool:
        """Whether the reward that this run was made for is known."""
        if self.plan.until is None or self.plan.substitute is None:
            return False
        return self.reward_after(self.plan.until, len(self.plan.replayed)) is not None

    def reward_after(self, name: str, step: int) -> Stated | None:
        """The statement of a reward that judges a step: the first one made after it."""
        return next((s for s in self.rewards if s.name == name and s.steps > step), None)

    def reward_means(self) -> dict[str, float | None]:
        """Each stated reward's mean over its defined statements; None if all were undefined."""
        values: dict[str, list[float]] = {}
        for stated in self.rewards:
            values.setdefault(stated.name, [])
            if stated.value is not None:
                values[stated.name].append(stated.value)
        return {name: sum(v) / len(v) if v else None for name, v in values.items()}


def _check_replay(recorded: Step, node: str, shown: str) -> None:
    rule = (
        "A flow must depend on nothing but its example and its nodes' outputs;"
        " wrap anything else in episode.effect(...)."
    )
    if node != recorded.node:
        raise ReplayError(
            f"the flow did not replay: step {recorded.index} called node '{recorded.node}' before"
            f" and calls '{node}' now. {rule}"
            f"\n--- recorded prompt ---\n{recorded.shown}\n--- prompt now ---\n{shown}"
        )
    if shown != recorded.shown:
        raise ReplayError(
            f"the flow did not replay: step {recorded.index}, node '{node}', has another prompt"
            f" than before. {rule}"
            f"\n--- recorded prompt ---\n{recorded.shown}\n--- prompt now ---\n{shown}"
        )
