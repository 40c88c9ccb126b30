"""An episode: one run of a flow on one example, step by step, with the rewards that it reported."""

from __future__ import annotations

import bisect
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .effect import EffectOptions, EffectRecord, effect_name
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
        concurrent: the flow waited for another call at the same time.
        recorded: it is a rollout's, answered from memory as in the episode.
        sampled: other noise might have given the flow another output.
    """

    index: int
    node: str
    prompt_text: str
    response: Response
    output: NodeOutput
    substituted: bool = False
    concurrent: bool = False
    recorded: bool = False
    sampled: bool = False


@dataclass(frozen=True)
class RewardEvent:
    """A reward that the flow reported after ``steps`` calls; None means undefined.

    ``of_call``: it was reported for a certain call, the last of the ``steps``.
    """

    name: str
    value: float | None
    steps: int
    of_call: bool = False


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


@dataclass(frozen=True)
class RequestError:
    """A request of a program that was answered with an error, after which it may have gone on.

    Args:
        code: its kind, such as "model_not_found"; None where it has none.
        place: the file and line that made the request; None where it came from outside.
    """

    message: str
    code: str | None = None
    place: str | None = None


class Runner(Protocol):
    """What runs an episode: plays its calls, or replays recorded ones."""

    async def call(
        self, episode: Episode, call: FlowCall, node: str, inputs: Mapping[str, Any]
    ) -> Step:
        """The step that a call has become; it is among the episode's steps."""

    async def effect(
        self,
        episode: Episode,
        call: FlowCall,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: EffectOptions,
    ) -> Any:
        """The result of a side effect, which runs once for an episode and its rollouts."""


class Episode:
    """One run of a flow: what the flow calls while it runs, and the record of it afterwards.

    A flow awaits ``call`` and uses ``reward``, ``target`` and ``effect``. Afterwards ``steps``,
    ``effects``, ``rewards``, ``targets``, ``request_errors``, ``result`` and ``failure`` hold what
    happened. Of calls from another process or from threads, ``raced`` is whether any were made
    at once, and ``asked_alike`` has the nodes that were asked for the same several times, and
    whether at once.

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
        self.effects: list[EffectRecord] = []
        self.issued = 0
        self.rewards: list[RewardEvent] = []
        self.targets: list[Target] = []
        self.request_errors: list[RequestError] = []
        self.raced = False
        self.asked_alike: dict[str, bool] = {}
        self.result: Any = None
        self.failure: Failure | None = None
        self.stopped_early = False
        self.undefined_rewards: set[str] = set()
        self.runner = runner
        self._not_awaited: dict[int, FlowCall] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The record alone: nodes, and what a flow runs in, belong to their process."""
        return {**vars(self), "nodes": {}, "runner": None, "_not_awaited": {}}

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
            step = await self.runner.call(self, call, node, inputs)
        except NotAText as error:
            error.add_place(call.place)
            raise
        return step.output.value

    def reward(self, name: str, value: float | None, call: FlowCall | None = None) -> None:
        """Report a reward as soon as it is known; None means undefined for this example.

        A flow may report a reward several times (say, once a loop): a step is judged by the first
        report for it or, where there is none, after it; the episode's value is the mean of all
        reports. A step that ran beside others and has no report of its own is judged by the
        episode's value, at the end.

        Args:
            call: what ``call`` returned, and was awaited: the reward is for this call alone.

        Raises:
            ValueError: the value is no finite number, or too large to learn from; or the call has
                no answer yet.
        """
        if value is not None:
            try:
                value = real_number(value)
            except ValueError as error:
                raise ValueError(
                    f"reward '{name}' {error}, or None where it is undefined"
                ) from None
        if call is None:
            made = max(self.issued, len(self.steps))
            self.rewards.append(RewardEvent(name, value, made))
        else:
            step = _answered(call, f"reward '{name}'")
            self.rewards.append(RewardEvent(name, value, step.index + 1, of_call=True))

    def undefined(self, *names: str) -> None:
        """Announce that these rewards will be undefined for this example.

        From here on, no alternatives are tried for nodes that are judged by them. The flow still
        reports them, as None.
        """
        self.undefined_rewards.update(names)

    def target(self, node: str, gold: Any, call: FlowCall | None = None) -> None:
        """Report the right output of the node's latest call. Ignored in rollouts.

        Args:
            call: what ``call`` returned, and was awaited, where the latest one is not meant.

        Raises:
            ValueError: the node has not been called yet, or its latest call ran beside others and
                ``call`` does not say which one is meant.
        """
        if self.is_rollout:
            return
        if call is not None:
            meant = _answered(call, f"a target for node '{node}'")
            if meant.node != node:
                raise ValueError(
                    f"a target was reported for node '{node}', and for {call.what} ({call.place})"
                )
            self.targets.append(Target(meant.index, gold))
            return
        latest = [step for step in self.steps if step.node == node][-2:]
        if len(latest) == 2 and latest[0].concurrent and latest[1].concurrent:
            raise ValueError(
                f"a target was reported for node '{node}', whose latest calls ran side by side:"
                " say which one is meant, call = episode.call(...) and"
                " episode.target(node, gold, call=call)"
            )
        for step in reversed(self.steps):
            if step.node == node:
                self.targets.append(Target(step.index, gold))
                return
        raise ValueError(f"a target was reported for node '{node}', which has not been called yet")

    def effect(
        self,
        function: Callable[..., Any],
        *args: Any,
        stateful: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> FlowCall:
        """Await a side effect or a slow tool, run once; rollouts of this episode get its result.

        Effects of all episodes and rollouts run side by side, at most ``engine.effects`` at once.
        A rollout that calls the same function with the same arguments as often as the episode has
        gets the episode's result, and so does a run that is resumed: results are kept before they
        are delivered. An exception is kept, too, and raised again, as a flow may have caught it.

        Functions are told apart by module and qualified name; a lambda or inner function, by its
        code and the values that it uses from around it, too. What a method's object or a client
        holds is not looked at: where one name stands for several (a method of several objects),
        let an argument tell them apart.

        Args:
            function: async, or not (then it runs in a thread); called with ``args``, unless this
                episode, or the one that it deviates from, has made the same call as often before.
            args: JSON values, the key of the call.
            stateful: what it returns depends on the stateful effects before it (a shopping cart),
                so the key has these, too.
            timeout: seconds of one attempt; None is ``training.effect_timeout``, 0 is no limit. A
                function in a thread is left behind.
            retries: further attempts after an exception, with growing pauses; None is
                ``training.effect_retries``.

        Returns:
            What the function returned, which must be a JSON value; each run of the flow has a copy
            of its own. A tuple comes as a list.

        Raises:
            TypeError: the arguments or the result are no JSON values.
            TimeoutError: the last attempt took too long.
        """
        assert self.runner is not None
        options = EffectOptions(stateful, timeout, retries)
        runner = self.runner
        return self._made(
            f"effect {effect_name(function)}",
            lambda call: runner.effect(self, call, function, args, options),
        )

    def _made(self, what: str, start: Callable[[FlowCall], Coroutine[Any, Any, Any]]) -> FlowCall:
        call = FlowCall(what, start, self._awaited)
        self._not_awaited[id(call)] = call
        return call

    def _awaited(self, call: FlowCall) -> None:
        del self._not_awaited[id(call)]

    @property
    def confused(self) -> list[str]:
        """The nodes in ``asked_alike`` whose answers are sampled; those asked at once first."""
        sampled = {step.node for step in self.steps if step.sampled}
        found = [node for node in self.asked_alike if node in sampled]
        return sorted(found, key=lambda node: not self.asked_alike[node])

    @property
    def chance(self) -> str | None:
        """What of the flow may be otherwise by chance next time, and what to do; None: nothing."""
        if self.confused:
            return (
                f"Another process, or threads, asked node '{self.confused[0]}' for the same several"
                " times. Where equal requests are sent at once, chance decides which gets which"
                " answer: give each a 'seed' of its own."
            )
        if self.raced:
            return (
                "Another process, or threads, sent requests at once, whose answers it may read in"
                " any order: go on from them in the order of the requests (asyncio.gather), not as"
                " they come. If that is not it, the program depends on something other than its"
                " example and its answers, such as a clock or a tool: have the result remembered by"
                " POST /effects (docs/gateway.md)."
            )
        return None

    def check_awaited(self) -> None:
        """Raise NotAwaited for a call that the flow has made and never awaited."""
        for call in self._not_awaited.values():
            raise call.not_awaited()

    # The record

    @property
    def last(self) -> Step:
        """The latest step, for flows that need a score beside the value.

        Raises:
            ValueError: it ran beside others; ``call.step`` of what ``call`` returned has each.
        """
        if self.steps[-1].concurrent:
            raise ValueError(
                "episode.last is ambiguous, as calls ran side by side: call = episode.call(...),"
                " await it, and take call.step"
            )
        return self.steps[-1]

    def add_step(self, step: Step) -> None:
        """Add a step that was answered; side by side, an earlier call may be answered later."""
        bisect.insort(self.steps, step, key=lambda step: step.index)

    def judged_at_end(self, name: str, step: int) -> bool:
        """Whether a step is judged by the episode's value of a reward, and not by one report."""
        reports = [r for r in self.rewards if r.name == name]
        if any(r.of_call and r.steps == step + 1 for r in reports):
            return False
        later = [r for r in reports if r.steps > step]
        return self.steps[step].concurrent or (bool(later) and all(r.of_call for r in later))

    def reward_of(self, name: str, step: int) -> RewardEvent | None:
        """The report of a reward that judges a step: the first for it, or else after it."""
        reports = [r for r in self.rewards if r.name == name]
        own = (r for r in reports if r.of_call and r.steps == step + 1)
        later = (r for r in reports if not r.of_call and r.steps > step)
        return next(own, None) or next(later, None)

    def judgement(self, name: str, step: int, *, at_end: bool) -> RewardEvent | None:
        """What a reward says of a step: its report, or the episode's value as one."""
        if not at_end:
            return self.reward_of(name, step)
        means = self.reward_means()
        return RewardEvent(name, means[name], len(self.steps)) if name in means else None

    def reward_means(self) -> dict[str, float | None]:
        """Each reward's mean over its defined reports; None if every report was undefined."""
        values: dict[str, list[float]] = {}
        for reward in self.rewards:
            values.setdefault(reward.name, [])
            if reward.value is not None:
                values[reward.name].append(reward.value)
        return {name: sum(v) / len(v) if v else None for name, v in values.items()}


def _answered(call: FlowCall, what: str) -> Step:
    if call.step is None:
        raise ValueError(f"{what} was reported for {call.what} that has no answer ({call.place})")
    return call.step
