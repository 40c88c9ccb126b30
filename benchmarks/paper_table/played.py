"""Predictions out of a training run: each example as it was played before it was learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowtune_cli.flow.example import Example
from flowtune_cli.flow.postprocessing import ROLLOUTS
from flowtune_cli.flow.task import Task
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.reader import RunReader
from flowtune_cli.runs.records import EpisodeRecord, RolloutRecord


def played_lines(
    task: Task, examples: Sequence[Example], run: RunDirectory
) -> dict[str, dict[str, Any]]:
    """By example id, the line that its first episode in a run would have been predicted as.

    Examples for which the flow failed have none.
    """
    by_id = {example.id: example for example in examples}
    lines: dict[str, dict[str, Any]] = {}
    with RunReader(run.store_path) as reader:
        for number in range(reader.counts().episodes):
            episode = reader.episode(number)
            example = by_id[episode.example_id]
            if episode.error is None and example.id not in lines:
                lines[example.id] = {
                    **task.prediction(example, episode.result),
                    **task.scores(example, episode.result),
                    ROLLOUTS: list(_rollouts(episode)),
                }
    return lines


def _rollouts(episode: EpisodeRecord) -> Iterator[dict[str, Any]]:
    """Those of the verbose answers. In training they end once the concise answer is known."""
    for rollout in episode.rollouts:
        if rollout.node == "verbose":
            answer = _concise(rollout)
            yield {
                "node": rollout.node,
                "step": rollout.step,
                "alternative": rollout.alternative,
                "result": None if answer is None else {"predicted_answer": answer},
            }


def _concise(rollout: RolloutRecord) -> str | None:
    """The concise answer; None where the rollout was skipped, or failed before it."""
    return next((step.output for step in rollout.steps if step.node == "concise"), None)
