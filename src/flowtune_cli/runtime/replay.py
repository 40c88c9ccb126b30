"""Replay: a flow is run again with recorded outputs, which is how it is reset to a step.

A flow is deterministic given its nodes' outputs, so no state has to be saved or restored. A call is
known by its key, whatever else the flow does meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Union

from ..flow.effect import (
    EffectEnd,
    EffectOptions,
    EffectRecord,
    Key,
    captured_digest,
    effect_name,
    strict_json,
)
from ..flow.episode import Episode, Failure, Step
from ..flow.errors import ReplayError, UsageError, unknown_name
from ..flow.flow_call import FlowCall
from ..flow.node import Call, Exploration
from ..flow.request import DecodeRequest, Refusal, Request
from .delivery import Deliveries, Pending
from .effects import GREEDY, Effects
from .flow_run import Ended, FlowRun
from .recording import Keys, RecordedCall, Recording, inputs_digest, text_digest
from .responses import checked
from .scheduler import ask

Seed = Union[int, str]
"""The run's seed, or one made from it."""


@dataclass(frozen=True)
class Plan:
    """How one run of a flow differs from a plain greedy one.

    Args:
        explorations: the strategy of each node whose alternatives are wanted, by node name.
        recording: of an earlier run, whose outputs are returned again.
        substitute: a step of that run, and which of its outputs is returned in place of its own: 1
            is the first alternative. Calls that were made before the flow got that output have to
            be made again; later ones are answered from the recording where they are the same.
            Without it, all have to be made again.
        until: the reward whose first report after the substituted step, or for it, ends the run.
        skip_undefined: find no alternatives for nodes whose reward is announced as undefined.
        ending: whose noise is drawn behind the substituted step; 0 is that of the recording. What
            was sampled there is not answered from the recording by any other.
    """

    explorations: Mapping[str, Exploration] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)
    substitute: tuple[Step, int] | None = None
    until: str | None = None
    skip_undefined: bool = False
    ending: int = 0


@dataclass(frozen=True)
class Issued:
    """A call as the flow makes it.

    Args:
        index: of its step.
        digest: of its inputs; None if there is none.
        number: how many calls of the node, with the same seed of their own, there were before.
    """

    call: FlowCall
    key: Key
    index: int
    node: str
    inputs: Mapping[str, Any]
    prompt_text: str
    digest: str | None
    number: int


class Replay:
    """Runs an episode by its plan: recorded calls from memory, and the others by the nodes.

    Args:
        seed: what the nodes' randomness depends on, with the example's id, the node, and how many
            calls of that node there were before. In further passes over the examples it is another.
        effects: those of the episode that is replayed; new ones are added.
        run: the tasks of this run.

    Attributes:
        recording: of this run.
    """

    def __init__(self, plan: Plan, seed: Seed, effects: Effects, run: FlowRun) -> None:
        self.plan = plan
        self.seed = seed
        self.effects = effects
        self.run = run
        self.recording = Recording()
        self._substitute: Key | None = None
        again = plan.recording.deliveries
        name = GREEDY
        if plan.substitute is not None:
            step, alternative = plan.substitute
            self._substitute = plan.recording.key_of(step.index)
            again = plan.recording.until(self._substitute)
            name = (step.index, alternative, *([plan.ending] if plan.ending else []))
        order = effects.order_of(name)
        self._deliveries = Deliveries(run, again, order, partial(effects.deliver, name))
        self.recording.deliveries = self._deliveries.made
        # What has to be called again, and has not been yet.
        self._missing = {
            key: call for key, call in plan.recording.calls.items() if call.issued_at < len(again)
        }
        self._mismatch: ReplayError | None = None
        self._added: tuple[str, str] | None = None
        self._keys = Keys()
        self._calls_made: dict[tuple[str, int | None], int] = {}
        self._substituted: int | None = None
        self._stateful: list[tuple[str, str]] = []
        self._requests: dict[Key, int] = {}
        # The calls that were answered at once, with what another server had said before.
        self._remembered: set[Key] = set()

    async def call(
        self, episode: Episode, call: FlowCall, node: str, inputs: Mapping[str, Any]
    ) -> Step:
        """See ``Episode.call``."""
        self._end_if_decided(episode)
        if node not in episode.nodes:
            raise unknown_name("node", node, list(episode.nodes))
        prompt_text = episode.nodes[node].prompt_text(inputs)
        digest = inputs_digest(inputs)
        self.run.begin_call(episode.issued)
        index, episode.issued = episode.issued, episode.issued + 1
        alike = node, episode.nodes[node].own_seed(inputs)
        number = self._calls_made.get(alike, 0)
        self._calls_made[alike] = number + 1
        key = call.key = self._call_key(call, node, prompt_text)
        issued = Issued(call, key, index, node, inputs, prompt_text, digest, number)
        if call.from_outside:
            self._note_chance(episode, key)
        pending = None
        try:
            recorded = self._recorded(episode, issued)
            pending = self._deliveries.issue(key, is_call=True)
            if recorded is None:
                step = await self._respond(episode, issued)
            else:
                step = replace(recorded, index=index)

            def deliver(pending: Pending = pending, step: Step = step) -> None:
                made = replace(step, concurrent=pending.concurrent)
                self.recording.calls[key] = RecordedCall(made, digest, pending.issued_at)
                call.step = made
                episode.add_step(made)

            known = recorded is not None or key in self._remembered
            await self._deliveries.arrive(pending, deliver, recorded=known)
        finally:
            if pending is not None:
                self._deliveries.withdraw(pending)
                if key not in self.recording.calls:
                    self.recording.cancelled.add(key)
            self.run.end_call()
        assert call.step is not None
        return call.step

    async def _respond(self, episode: Episode, issued: Issued) -> Step:
        """Have a node answer its call of that number."""
        index, node, inputs = issued.index, issued.node, issued.inputs
        exploration = self._exploration(episode, node)
        explored = exploration and exploration.decoding(episode.nodes[node].alternatives)
        sampled = False

        async def asking(request: Request) -> Any:
            nonlocal sampled
            if isinstance(request, DecodeRequest) and request.decoding != explored:
                sampled = sampled or request.decoding.draws
            return await self._ask(episode, issued, request)

        # A text, as a program's own seed, a number, may stand behind it.
        ending = (f"ending {self.plan.ending}",) if self.plan.ending else ()
        seed = (self.seed, episode.example.id, node, issued.number, *ending)
        asked = Call(inputs, asking, exploration, seed)
        response = checked(node, await episode.nodes[node].respond(asked))
        sampled = sampled or response.sampled
        output = response.outputs[0]
        return Step(index, node, issued.prompt_text, response, output, sampled=sampled)

    def _recorded(self, episode: Episode, issued: Issued) -> Step | None:
        """The step that answers a call from memory; None where a node has to.

        Raises:
            ReplayError: the flow must not make this call yet.
        """
        key = issued.key
        found = self.plan.recording.calls.get(key)
        again = self._missing.pop(key, None)
        if key in self.plan.recording.cancelled:
            return None
        same = found is not None and issued.digest is not None and issued.digest == found.inputs
        # A program outside makes a call earlier by chance: its own clock and the network decide.
        # What is as it was recorded does not depend on what is still to be delivered.
        early = same and issued.call.from_outside
        if again is None and self._deliveries.replaying and not early:
            self._mismatch = _other_call(episode, self._missing, issued)
            raise self._mismatch
        if found is not None and self.plan.ending and found.step.sampled:
            same = False
        if found is None or (again is None and not same):
            self._added = self._added or (issued.node, issued.prompt_text)
            return None
        step = found.step
        if key == self._substitute:
            assert self.plan.substitute is not None
            self._substituted = issued.index
            output = step.response.outputs[self.plan.substitute[1]]
            return replace(step, output=output, substituted=True)
        step = replace(step, recorded=True)
        if again is not None:
            return step
        # As a node answers that is not asked for alternatives.
        return replace(step, response=replace(step.response, outputs=step.response.outputs[:1]))

    async def effect(
        self,
        episode: Episode,
        call: FlowCall,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        options: EffectOptions,
    ) -> Any:
        """See ``Episode.effect``."""
        self._end_if_decided(episode)
        name = effect_name(function)
        shown = strict_json(args, f"the arguments of effect {name}", sort_keys=True)
        parts = [name, shown, captured_digest(function)]
        if options.stateful:
            parts.append(text_digest(repr(self._stateful)))
            self._stateful.append((name, shown))
        key = self._effect_key(call, name, parts)
        steps = episode.issued
        pending = self._deliveries.issue(key, is_call=False)
        try:
            end = self.effects.ends.get(key)
            known = end is not None
            if end is None:
                end = await self.effects.run(key, function, args, options)
            await self._deliveries.arrive(pending, _nothing, recorded=known)
        finally:
            self._deliveries.withdraw(pending)
        self._note(episode, key, end, (steps, name, shown))
        return end.value()

    def _note_chance(self, episode: Episode, key: Key) -> None:
        """Note a call from outside, before which others may come by chance."""
        pending = self._deliveries.pending_calls
        episode.raced = episode.raced or bool(pending)
        if key[-1] != "0":
            at_once = any(other[:-1] == key[:-1] for other in pending)
            episode.asked_alike[key[0]] = at_once or episode.asked_alike.get(key[0], False)

    def _call_key(self, call: FlowCall, node: str, prompt_text: str) -> Key:
        return self._keys.next(node, text_digest(prompt_text))

    def _effect_key(self, call: FlowCall, name: str, parts: Sequence[str]) -> Key:
        return ("effect", *self._keys.next(*parts))

    async def _ask(self, episode: Episode, issued: Issued, request: Request) -> Any:
        """The answer to a node's request: the engine's, or what another server is to say."""
        node = issued.node
        elsewhere = episode.nodes[node].elsewhere
        if elsewhere is None:
            model = episode.nodes[node].other_model
            return await ask(request if model is None else replace(request, model=model))
        try:
            body = elsewhere.body(request)
        except UsageError as error:
            if isinstance(request, DecodeRequest) and request.refusable:
                return Refusal(str(error))
            raise UsageError(f"node '{node}': {error}") from None
        shown = strict_json(body, f"the request of node '{node}'", sort_keys=True)
        number = self._requests.get(issued.key, 0)
        self._requests[issued.key] = number + 1
        key = ("elsewhere", *issued.key, str(number), text_digest(shown))
        end = self.effects.ends.get(key)
        if end is None:
            end = await self.effects.run(key, elsewhere.fetch, (body,), elsewhere.options)
        elif not number:
            self._remembered.add(issued.key)
        settings = {name: value for name, value in body.items() if name != "messages"}
        self._note(episode, key, end, (issued.index, f"node {node}", json.dumps([settings])))
        return elsewhere.answer(request, end.value())

    def _note(self, episode: Episode, key: Key, end: EffectEnd, made: tuple[int, str, str]) -> None:
        """Add to the episode's record that it has got an effect's end."""
        again = self.plan.substitute is not None and key in self.effects.of_episode
        if self.plan.substitute is None:
            self.effects.of_episode.add(key)
        error = None if end.error is None else Failure.of(end.error).error
        episode.effects.append(EffectRecord(*made, end.result, error, again))

    def check_complete(self, episode: Episode) -> None:
        """Raise a ReplayError if the flow ended before it made every recorded call again."""
        if self._mismatch is not None:  # which the flow may have caught
            raise self._mismatch
        for missing in self._missing.values():
            now = ""
            if self._added is not None:
                now = f"\n--- prompt now, of node '{self._added[0]}' ---\n{self._added[1]}"
            raise ReplayError(
                f"the flow did not replay: it ended after {len(episode.steps)} calls, and its step"
                f" {missing.step.index} called node '{missing.step.node}' before."
                f"\n--- recorded prompt ---\n{missing.step.prompt_text}{now}"
            )

    def finish(self, episode: Episode) -> None:
        """Number the steps of an episode that has ended without the calls that it cancelled."""
        numbers = {step.index: number for number, step in enumerate(episode.steps)}
        if all(old == new for old, new in numbers.items()):
            return
        episode.steps = [replace(s, index=numbers[s.index]) for s in episode.steps]
        for key, call in self.recording.calls.items():
            step = episode.steps[numbers[call.step.index]]
            self.recording.calls[key] = replace(call, step=step)
        episode.targets = [replace(t, step=numbers[t.step]) for t in episode.targets]
        episode.rewards = [
            replace(r, steps=sum(old < r.steps for old in numbers)) for r in episode.rewards
        ]
        episode.effects = [
            replace(e, steps=sum(old < e.steps for old in numbers)) for e in episode.effects
        ]

    def _end_if_decided(self, episode: Episode) -> None:
        if not self.run.ended and self._is_decided(episode):
            episode.stopped_early = True
            self.run.end()
        if self.run.ended:
            raise Ended

    def _is_decided(self, episode: Episode) -> bool:
        """Whether the reward that this run was made for is known."""
        if self.plan.until is None or self._substituted is None:
            return False
        return episode.reward_of(self.plan.until, self._substituted) is not None

    def _exploration(self, episode: Episode, name: str) -> Exploration | None:
        node = episode.nodes[name]
        judged_by_reward = self.plan.skip_undefined and not node.evaluator
        if judged_by_reward and node.reward in episode.undefined_rewards:
            return None
        return self.plan.explorations.get(name)


def _nothing() -> None:
    """An effect leaves no step."""


def _other_call(
    episode: Episode, missing: Mapping[Key, RecordedCall], issued: Issued
) -> ReplayError:
    """The error for a call that was not made before."""
    rule = episode.chance or (
        "A flow must depend on nothing but its example and its nodes' outputs;"
        " wrap anything else in episode.effect(...)."
    )
    node = issued.node
    now = f"\n--- prompt now ---\n{issued.prompt_text}"
    if not missing:
        return ReplayError(
            f"the flow did not replay: it calls node '{node}' more often than before. {rule}{now}"
        )
    steps = sorted((call.step for call in missing.values()), key=lambda step: step.index)
    # Of calls side by side, the one of the same node is meant.
    first = min(call.issued_at for call in missing.values())
    together = [c.step for c in missing.values() if c.issued_at == first and c.step.node == node]
    recorded = min(together, key=lambda step: step.index, default=steps[0])
    now = f"\n--- recorded prompt ---\n{recorded.prompt_text}{now}"
    if node != recorded.node:
        return ReplayError(
            f"the flow did not replay: step {recorded.index} called node '{recorded.node}' before"
            f" and calls '{node}' now. {rule}{now}"
        )
    return ReplayError(
        f"the flow did not replay: step {recorded.index}, node '{node}', has another prompt"
        f" than before. {rule}{now}"
    )
