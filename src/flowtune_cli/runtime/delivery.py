"""When a flow gets its answers: in an order that depends on nothing but the flow.

Calls that a flow makes side by side are answered in different batches, whichever other flows there
are. So an answer is held back until all calls that the flow waits for have theirs, and then they
are delivered together, in the order in which the calls were made. Effects are delivered as they
end. A run that replays another one delivers in the order of that one, and so does one that goes on
where a process was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..flow.effect import Key
from .event_loop import running_loop
from .flow_run import FlowRun

PATIENCE_SECONDS = 30.0
"""How long a program outside, all of whose calls have their answers, may take to make those whose
answers it got at the same time before."""


@dataclass(eq=False)
class Pending:
    """A call or an effect that the flow waits for.

    Attributes:
        concurrent: there was another call at the same time.
    """

    key: Key
    is_call: bool
    issued_at: int
    concurrent: bool = False
    deliver: Callable[[], None] | None = None
    future: asyncio.Future[None] | None = None

    @property
    def answered(self) -> bool:
        """Whether its answer is there, and held back."""
        return self.future is not None


class Deliveries:
    """The answers of one run of a flow.

    Args:
        recorded: the deliveries that are to be made again, in order.
        order: the deliveries after these, where they were made before and the calls are new.
        keep: told of each delivery after the recorded ones, before it is made; for a run without
            effects, never.

    Attributes:
        made: those of this run.
    """

    def __init__(
        self,
        run: FlowRun,
        recorded: Sequence[tuple[Key, ...]],
        order: Sequence[tuple[Key, ...]] = (),
        keep: Callable[[tuple[Key, ...]], None] = lambda keys: None,
    ) -> None:
        self.made: list[tuple[Key, ...]] = []
        self._run = run
        self._recorded = [list(keys) for keys in recorded]
        self._order = [list(keys) for keys in order]
        self._keep = keep
        self._has_effects = False
        self._new: list[tuple[Key, ...]] = []
        self._pending: list[Pending] = []
        self._patience: asyncio.TimerHandle | None = None

    @property
    def replaying(self) -> bool:
        """Whether recorded deliveries are still to come."""
        return bool(self._recorded)

    @property
    def pending_calls(self) -> list[Key]:
        """The calls that the flow waits for."""
        return [pending.key for pending in self._pending if pending.is_call]

    def issue(self, key: Key, *, is_call: bool) -> Pending:
        """Note a call or an effect; it must be withdrawn in the end."""
        self._loop = running_loop()
        self._end_patience()
        if not is_call and not self._has_effects:
            self._has_effects = True
            for keys in self._new:
                self._keep(keys)
        pending = Pending(key, is_call, issued_at=len(self.made))
        others = [other for other in self._pending if other.is_call and is_call]
        for other in others:
            other.concurrent = pending.concurrent = True
        self._pending.append(pending)
        return pending

    async def arrive(
        self, pending: Pending, deliver: Callable[[], None], *, recorded: bool
    ) -> None:
        """Wait until an answer that is there may be delivered.

        Args:
            deliver: called then.
            recorded: it comes from memory, at once: maybe before others that are still to be made.
        """
        pending.deliver = deliver
        if self._run.alone and self._pending == [pending]:
            self._deliver([pending])
            return
        pending.future = self._loop.create_future()
        if recorded or self._expected:
            self._loop.on_rest.append(self._at_rest)
        else:
            # Not at once: this task, too, goes on in its turn.
            self._loop.call_soon(self._deliver_complete)
        await pending.future

    def withdraw(self, pending: Pending) -> None:
        """Forget a call that was delivered, or cancelled before."""
        if pending in self._pending:
            self._pending.remove(pending)
            self._end_patience()
            if any(other.answered for other in self._pending):
                self._loop.on_rest.append(self._at_rest)

    @property
    def _expected(self) -> list[list[Key]]:
        """The deliveries that are known beforehand."""
        return self._recorded or self._order

    def _at_rest(self) -> None:
        """Deliver what may be, now that all tasks of the flow wait."""
        if not self._expected:
            self._deliver_complete()
            return
        wanted = self._expected[0]
        found = [p for key in wanted for p in self._pending if p.key == key and p.answered]
        if len(found) == len(wanted):
            self._deliver(found)
        elif any(pending.answered for pending in self._pending):
            self._loop.stuck.append(self._give_order_up)
            if self._loop.waits_outside and all(pending.answered for pending in self._pending):
                self._be_patient()
            return
        if any(pending.answered for pending in self._pending):
            self._loop.on_rest.append(self._at_rest)

    def _be_patient(self) -> None:
        """Wait for a program outside to call again, which may itself wait for what is held back."""
        if self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_SECONDS, self._give_order_up)

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_order_up(self) -> None:
        """The recorded order cannot be kept: the flow does not wait for what it waited for."""
        self._end_patience()
        if not any(pending.answered for pending in self._pending):
            return  # it has gone on since
        self._recorded.clear()
        self._order.clear()
        self._deliver_complete()

    def _deliver_complete(self) -> None:
        for effect in [p for p in self._pending if not p.is_call and p.answered]:
            self._deliver([effect])
        calls = [pending for pending in self._pending if pending.is_call]
        if calls and all(call.answered for call in calls):
            self._deliver(calls)

    def _deliver(self, together: list[Pending]) -> None:
        self._end_patience()
        keys = tuple(pending.key for pending in together)
        if not self.replaying:
            self._new.append(keys)
            if self._has_effects:
                self._keep(keys)
        self.made.append(keys)
        for expected in (self._recorded, self._order):
            for group in expected:
                group[:] = [key for key in group if key not in keys]
            while expected and not expected[0]:
                del expected[0]
        for pending in together:
            self._pending.remove(pending)
            assert pending.deliver is not None
            pending.deliver()
            if pending.future is not None and not pending.future.done():
                pending.future.set_result(None)
