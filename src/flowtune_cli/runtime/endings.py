"""Several endings of one deviation: where flows sample, a single one says little.

Ending 0 has the episode's own noise. Each further one is played with noise of its own, the same for
the alternative and for the episode's side, so what differs between the two is the alternative.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ..flow.episode import Episode, Step
from ..flow.task import Task
from .effects import Effects
from .play import recording_of, roll_out
from .recording import Key, Recording
from .replay import Seed


@dataclass
class Endings:
    """What follows the steps of an episode, with the noise of one ending or another.

    Args:
        recording: of the episode.
        effects: those of the episode.
    """

    task: Task
    episode: Episode
    recording: Recording
    seed: Seed
    effects: Effects
    _own: dict[tuple[int, int], asyncio.Future[Episode]] = field(default_factory=dict)

    async def of_alternative(
        self, step: Step, alternative: int, until: str | None, ending: int = 0
    ) -> Episode:
        """The rollout from an output of a step; see ``roll_out``."""
        return await roll_out(
            self.task,
            self.episode.example,
            self.recording,
            step,
            alternative,
            until=until,
            seed=self.seed,
            effects=self.effects,
            ending=ending,
        )

    async def of_episode(self, step: Step, until: str | None, ending: int) -> Episode:
        """The episode from a step on with other noise; played once for all its alternatives."""
        key = step.index, ending
        if key not in self._own:
            played = self._own[key] = asyncio.get_running_loop().create_future()
            played.set_result(await self.of_alternative(step, 0, until, ending))
        return await self._own[key]

    def draws(self, played: Episode, step: Step, until: str | None) -> bool:
        """Whether other noise might have given a run another ending.

        Args:
            played: the episode, or a rollout from the step.
            until: the reward that ends the comparison: what is drawn behind its report is nothing
                to it.
        """
        before = self._before(step)
        begin = next((s.index for s in played.steps if s.substituted), step.index)
        report = None if until is None else played.reward_of(until, begin)
        # The report for a certain call may come whenever it likes.
        end = None if report is None or report.of_call else report.steps
        recording = self.recording if played is self.episode else recording_of(played)
        return any(
            call.step.sampled and key not in before and (end is None or call.step.index < end)
            for key, call in recording.calls.items()
        )

    def _before(self, step: Step) -> set[Key]:
        """The calls that every rollout from a step makes again."""
        deliveries = len(self.recording.until(self.recording.key_of(step.index)))
        calls = self.recording.calls.items()
        return {key for key, call in calls if call.issued_at < deliveries}
