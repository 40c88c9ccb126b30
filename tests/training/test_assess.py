"""Assessing plays every example once, learns nothing, and averages what was defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowtune_cli.flow.episode import Episode
from flowtune_cli.flow.example import Example
from flowtune_cli.training.assess import assess
from support.fake_engine import digest
from support.tiny_training import Run, adapters_of, letters


def test_it_averages_rewards_and_changes_nothing(make_run: Callable[..., Run]) -> None:
    run = make_run(count=6)
    trainer = run.trainer()
    before = adapters_of(trainer)
    averages = assess(trainer.session, run.examples)
    played = [episode for _, episode in trainer.session.play(run.examples)]
    drafts = [digest(episode.result["draft"]) % 5 / 4 for episode in played]
    assert averages["draft"].mean == pytest.approx(sum(drafts) / 6)
    assert (averages["end"].defined, averages["end"].undefined) == (4, 2)
    after = adapters_of(trainer)
    assert all(
        bool((new == old).all())
        for name in before
        for new, old in zip(after[name], before[name], strict=True)
    )


def test_a_failed_episode_is_undefined_and_not_zero(make_run: Callable[..., Run]) -> None:
    async def fails_once(episode: Episode, example: Example) -> dict[str, Any]:
        result = await letters(episode, example)
        if example.gold == 2:
            raise RuntimeError("the tool is gone")
        return result

    run = make_run(count=4, flow=fails_once)
    averages = assess(run.trainer().session, run.examples)
    assert (averages["draft"].defined, averages["draft"].undefined) == (3, 1)
