"""Replays an episode to its end whatever the flow asks, and notes each request that differs.

Nothing is asked of a model, so it may happen anywhere: in another process, or while a run trains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..flow.episode import Episode, Step
from ..flow.errors import ReplayError
from ..flow.flow_call import FlowCall
from ..flow.request import Request
from .recording import Key
from .replay import Issued, Replay


@dataclass(frozen=True)
class Difference:
    """Something that a flow did otherwise when it got the recorded answers.

    Args:
        what: the node; or "effect NAME", "result", "rewards", "targets", "failure".
        before: what was shown when it was recorded; None: it was not called.
        now: what is shown; None: it was not called.
        place: the file and line of the call in the flow, where it is known.
        step: the recorded step; None for what is none.
    """

    what: str
    before: str | None
    now: str | None
    place: str | None = None
    step: int | None = None


class TolerantReplay(Replay):
    """A replay without substitute whose flow may ask what it likes.

    A call that was not made before is answered as the one in whose place it stands: the node's
    first one that has not been made again. A flow that calls a node more often than before is
    stopped.

    Attributes:
        differences: in the order in which the flow got to them.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.differences: list[Difference] = []
        delivered = (key for keys in self.plan.recording.deliveries for key in keys)
        self._effects_left = [key for key in delivered if key in self.effects.ends]

    def _call_key(self, call: FlowCall, node: str, prompt_text: str) -> Key:
        key = super()._call_key(call, node, prompt_text)
        if key in self._missing or key in self.plan.recording.cancelled:
            return key
        left = [each for each in self._missing if each[0] == node]
        if not left:
            self.differences.append(Difference(node, None, prompt_text, call.place))
            return key
        meant = min(left, key=lambda each: self._missing[each].step.index)
        step = self._missing[meant].step
        found = Difference(node, step.prompt_text, prompt_text, call.place, step.index)
        self.differences.append(found)
        return meant

    def _recorded(self, episode: Episode, issued: Issued) -> Step | None:
        key = issued.key
        again = self._missing.pop(key, None)
        if again is not None:
            return replace(again.step, recorded=True)
        if key in self.plan.recording.cancelled:
            return None
        self._mismatch = ReplayError(f"the flow calls node '{issued.node}' more often than before")
        raise self._mismatch

    async def _ask(self, episode: Episode, issued: Issued, request: Request) -> Any:
        """A call that was cancelled before it had its answer gets none this time either."""
        await asyncio.get_running_loop().create_future()

    def _effect_key(self, call: FlowCall, name: str, parts: Sequence[str]) -> Key:
        key = super()._effect_key(call, name, parts)
        if key in self._effects_left:
            self._effects_left.remove(key)
            return key
        meant = next((each for each in self._effects_left if each[1] == name), None)
        if meant is None:  # it was cancelled, perhaps: then it has no result
            return key
        self._effects_left.remove(meant)
        if meant[2:-1] != tuple(parts[1:]):
            now = parts[1] if meant[2] != parts[1] else "the same, and other values from around it"
            self.differences.append(Difference(f"effect {name}", meant[2], now, call.place))
        return meant

    def check_complete(self, episode: Episode) -> None:
        """Note the calls that were not made again."""
        if self._mismatch is not None:  # which the flow may have caught
            raise self._mismatch
        for missing in sorted(self._missing.values(), key=lambda call: call.step.index):
            step = missing.step
            self.differences.append(Difference(step.node, step.prompt_text, None, step=step.index))
