"""An episode: one run of a flow on one example, step by step, with the rewards that it reported."""

from __future__ import annotations

import bisect
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .example import Example
from .flow_call import FlowCall
from .node import Node, NodeOutput, Response
from .numbers import real_number
from .prompt import NotAText


@dataclass(frozen=True)
class Step:
    """One node call of an episode.

    Args:
        index: position among the episode's calls, from 0.
        prompt_text: everything that the call shows the model; a replay must show the same.
        response: what the node answered, alternatives included.
        output: what the flow got.
        substituted: ``output`` is an alternative that a rollout put in place of the greedy output.
    """

    index: int
    node: str
    prompt_text: str
    response: Response
    output: NodeOutput
    substituted: bool = False


@dataclass(frozen=True)
class RewardEvent:
    """A reward that the flow reported after ``steps`` calls; None means undefined."""

    name: str
    value: float | None
    steps: int


@dataclass(frozen=True)
class Target:
    """The right output of a step, as the flow reported it."""

    step: int
    gold: Any


@dataclass(frozen=True)
class Failure:
    """An exception that ended a flow, with its traceback."""

    error: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is; a group of one exception is named by that one."""
        named: BaseException = error
        while True:
            inner: tuple[BaseException, ...] = getattr(named, "exceptions", ())
            if len(inner) != 1:
                break
            named = inner[0]
        return cls(f"{type(named).__name__}: {named}", "".join(traceback.format_exception(error)))


class Runner(Protocol):
    """What runs an episode: plays its calls, or replays recorded ones."""

    async def call(self, episode: Episode, node: str, inputs: Mapping[str, Any]) -> Step:
        """The episode's next step."""

    def effect(self, episode: Episode, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """The result of a side effect, which runs once for an episode and its rollouts."""


class Episode:
    """One run of a flow: what the flow calls while it runs, and the record of it afterwards.

    A flow awaits ``call`` and uses ``reward``, ``target`` and ``effect``. Afterwards ``steps``,
    ``rewards``, ``targets``, ``result`` and ``failure`` hold what happened.

    Args:
        nodes: the task's nodes, by name.
        runner: answers the calls; None for a record that no flow runs in.
        is_rollout: one step's output was substituted, so nothing is learned from targets.
    """

    def __init__(
        self,
        example: Example,
        nodes: Mapping[str, Node],
        runner: Runner | None = None,
        *,
        is_rollout: bool = False,
    ) -> None:
        self.example = example
        self.nodes = nodes
        self.is_rollout = is_rollout
        self.steps: list[Step] = []
        self.rewards: list[RewardEvent] = []
        self.targets: list[Target] = []
        self.result: Any = None
        self.failure: Failure | None = None
        self.stopped_early = False
        self.undefined_rewards: set[str] = set()
        self.runner = runner
        self._not_awaited: dict[int, FlowCall] = {}

    # For flows

    def call(self, node: str, **inputs: Any) -> FlowCall:
        """Await a node's output for these inputs.

        Calls may run side by side, by ``asyncio.gather`` or as tasks.

        Raises:
            UsageError: the task has no such node, or an input of its prompt is missing.
            ReplayError: a replayed flow did not make the same call again.
            NotAwaited: an input is a call that was not awaited; the flow's line is named.
        """
        return self._made(f"a call of node '{node}'", lambda call: self._call(call, node, inputs))

    async def _call(self, call: FlowCall, node: str, inputs: Mapping[str, Any]) -> Any:
        assert self.runner is not None
        try:
            step = await self.runner.call(self, node, inputs)
        except NotAText as error:
            error.add_place(call.place)
            raise
        # Side by side, an earlier call may be answered later.
        bisect.insort(self.steps, step, key=lambda step: step.index)
        return step.output.value

    def reward(self, name: str, value: float | None) -> None:
        """Report a reward as soon as it is known; None means undefined for this example.

        A flow may report a reward several times (say, once a loop): a step is judged by the first
        report after it, and the episode's value is the mean of all reports.

        Raises:
            ValueError: the value is no finite number, or too large to learn from.
        """
        if value is not None:
            try:
                value = real_number(value)
            except ValueError as error:
                raise ValueError(
                    f"reward '{name}' {error}, or None where it is undefined"
                ) from None
        self.rewards.append(RewardEvent(name, value, len(self.steps)))

    def undefined(self, *names: str) -> None:
        """Announce that these rewards will be undefined for this example.

        From here on, no alternatives are tried for nodes that are judged by them. The flow still
        reports them, as None.
        """
        self.undefined_rewards.update(names)

    def target(self, node: str, gold: Any) -> None:
        """Report the right output of the node's latest call. Ignored in rollouts.

        Raises:
            ValueError: the node has not been called yet.
        """
        if self.is_rollout:
            return
        for step in reversed(self.steps):
            if step.node == node:
                self.targets.append(Target(step.index, gold))
                return
        raise ValueError(f"a target was reported for node '{node}', which has not been called yet")

    def effect(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a side effect or a slow tool once; rollouts of this episode reuse its result.

        Each run of the flow gets a copy that it may change. An exception is recorded and raised
        again in the rollouts, as a flow may have caught it.
        Functions are told apart by qualified name alone: where one name stands for several
        (methods of several objects, lambdas), let an argument tell them apart.

        Args:
            function: called with ``args``, unless this episode, or the one that it deviates from,
                has made the same call as often before.
            args: JSON values, the key of the call.

        Raises:
            UsageError: the arguments are not JSON values.
        """
        assert self.runner is not None
        return self.runner.effect(self, function, args)

    def _made(self, what: str, start: Callable[[FlowCall], Coroutine[Any, Any, Any]]) -> FlowCall:
        call = FlowCall(what, start, self._awaited)
        self._not_awaited[id(call)] = call
        return call

    def _awaited(self, call: FlowCall) -> None:
        del self._not_awaited[id(call)]

    def check_awaited(self) -> None:
        """Raise NotAwaited for a call that the flow has made and never awaited."""
        for call in self._not_awaited.values():
            raise call.not_awaited()

    # The record

    @property
    def last(self) -> Step:
        """The latest step, for flows that need a score beside the value."""
        return self.steps[-1]

    def reward_after(self, name: str, step: int) -> RewardEvent | None:
        """The report of a reward that judges a step: the first one after it."""
        return next((r for r in self.rewards if r.name == name and r.steps > step), None)

    def reward_means(self) -> dict[str, float | None]:
        """Each reward's mean over its defined reports; None if every report was undefined."""
        values: dict[str, list[float]] = {}
        for reward in self.rewards:
            values.setdefault(reward.name, [])
            if reward.value is not None:
                values[reward.name].append(reward.value)
        return {name: sum(v) / len(v) if v else None for name, v in values.items()}
