"""Replay: a flow is run again with recorded outputs, which is how it is reset to a step.

A flow is deterministic given its nodes' outputs, so no state has to be saved or restored.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..flow.episode import Episode, Step
from ..flow.errors import ReplayError, UsageError, unknown_name
from ..flow.node import Call, Exploration, NodeOutput
from .flow_run import Ended, FlowRun
from .responses import checked
from .scheduler import ask


@dataclass(frozen=True)
class _Raised:
    """The exception that an effect ended with; raised again wherever the effect is replayed."""

    error: Exception


Effects = dict[tuple[str, str, int], Any]
"""Results by function, arguments and occurrence; an episode and its rollouts share them."""


@dataclass(frozen=True)
class Plan:
    """How one run of a flow differs from a plain greedy one.

    Args:
        explorations: the strategy of each node whose alternatives are wanted, by node name.
        replayed: steps of an earlier run whose outputs are returned again, in order.
        substitute: the step after the replayed ones, and the output returned in place of its own.
        until: the reward whose first report after the substituted step ends the run.
        skip_undefined: find no alternatives for nodes whose reward is announced as undefined.
    """

    explorations: Mapping[str, Exploration] = field(default_factory=dict)
    replayed: Sequence[Step] = ()
    substitute: tuple[Step, NodeOutput] | None = None
    until: str | None = None
    skip_undefined: bool = False

    @property
    def recorded(self) -> list[Step]:
        """The calls that the flow has to make again, in order."""
        return [*self.replayed, *(self.substitute[:1] if self.substitute else ())]


class Replay:
    """Runs an episode by its plan: recorded steps first, then the nodes themselves.

    Args:
        seed: what the nodes' randomness depends on, with the example's id and the call's index.
        effects: those of the episode that is replayed; new ones are added.
        run: the tasks of this run.
    """

    def __init__(self, plan: Plan, seed: int, effects: Effects, run: FlowRun) -> None:
        self.plan = plan
        self.seed = seed
        self.effects = effects
        self.run = run
        self._issued = 0
        self._occurrences: dict[tuple[str, str], int] = {}

    async def call(self, episode: Episode, node: str, inputs: Mapping[str, Any]) -> Step:
        """See ``Episode.call``."""
        self._end_if_decided(episode)
        if node not in episode.nodes:
            raise unknown_name("node", node, list(episode.nodes))
        index, self._issued = self._issued, self._issued + 1
        prompt_text = episode.nodes[node].prompt_text(inputs)
        if index < len(self.plan.replayed):
            step = self.plan.replayed[index]
            _check_same_call(step, node, prompt_text)
            return step
        if index == len(self.plan.replayed) and self.plan.substitute is not None:
            step, output = self.plan.substitute
            _check_same_call(step, node, prompt_text)
            return replace(step, output=output, substituted=True)
        seed = (self.seed, episode.example.id, index)
        call = Call(inputs, ask, self._exploration(episode, node), seed)
        self.run.begin_call(index)
        try:
            response = checked(node, await episode.nodes[node].respond(call))
        finally:
            self.run.end_call()
        return Step(index, node, prompt_text, response, response.outputs[0])

    def effect(self, episode: Episode, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """See ``Episode.effect``."""
        self._end_if_decided(episode)
        name = f"{function.__module__}.{function.__qualname__}"
        try:
            key = (name, json.dumps(args, sort_keys=True))
        except TypeError as error:
            raise UsageError(f"effect {name}: its arguments must be JSON values: {error}") from None
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        run = (*key, occurrence)
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

    def check_complete(self, episode: Episode) -> None:
        """Raise a ReplayError if the flow ended before it made every recorded call again."""
        recorded = self.plan.recorded
        if len(episode.steps) < len(recorded):
            missing = recorded[len(episode.steps)]
            raise ReplayError(
                f"the flow did not replay: it ended after {len(episode.steps)} calls, and its step"
                f" {missing.index} called node '{missing.node}' before."
                f"\n--- recorded prompt ---\n{missing.prompt_text}"
            )

    def _end_if_decided(self, episode: Episode) -> None:
        if not self.run.ended and self._is_decided(episode):
            episode.stopped_early = True
            self.run.end()
        if self.run.ended:
            raise Ended

    def _is_decided(self, episode: Episode) -> bool:
        """Whether the reward that this run was made for is known."""
        if self.plan.until is None or self.plan.substitute is None:
            return False
        return episode.reward_after(self.plan.until, len(self.plan.replayed)) is not None

    def _exploration(self, episode: Episode, name: str) -> Exploration | None:
        node = episode.nodes[name]
        judged_by_reward = self.plan.skip_undefined and not node.evaluator
        if judged_by_reward and node.reward in episode.undefined_rewards:
            return None
        return self.plan.explorations.get(name)


def _check_same_call(recorded: Step, node: str, prompt_text: str) -> None:
    rule = (
        "A flow must depend on nothing but its example and its nodes' outputs;"
        " wrap anything else in episode.effect(...)."
    )
    if node != recorded.node:
        raise ReplayError(
            f"the flow did not replay: step {recorded.index} called node '{recorded.node}' before"
            f" and calls '{node}' now. {rule}"
            f"\n--- recorded prompt ---\n{recorded.prompt_text}"
            f"\n--- prompt now ---\n{prompt_text}"
        )
    if prompt_text != recorded.prompt_text:
        raise ReplayError(
            f"the flow did not replay: step {recorded.index}, node '{node}', has another prompt"
            f" than before. {rule}"
            f"\n--- recorded prompt ---\n{recorded.prompt_text}"
            f"\n--- prompt now ---\n{prompt_text}"
        )
