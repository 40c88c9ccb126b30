"""Run directories with stores, made without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowtune_cli.flow.deviation import Deviation, Outcome, Preference, Trace
from flowtune_cli.flow.episode import Episode, RewardEvent, Step
from flowtune_cli.flow.example import Example
from flowtune_cli.flow.node import NodeOutput, Response
from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.runs.store import BatchRecord, MetricRecord, Store, UpdateRecord
from support.random_batches import played, question_of


def make_run(
    parent: Path, records: Sequence[BatchRecord], name: str = "run", **about: str
) -> RunDirectory:
    given = {"task": "sums", "model": "none", **about}
    run = RunDirectory.create(
        parent, name, task=given["task"], model=given["model"], settings={"settings": {}}
    )
    with Store(run.store_path, question_of) as store:
        for record in records:
            store.write_batch(record)
    return run


def sums_run(parent: Path, batches: int = 8, name: str = "run") -> RunDirectory:
    """A run of the task ``Sums``: preferences, ties, failures, reference updates."""
    return make_run(parent, list(played(batches)), name)


def preference_batch(
    pairs: Sequence[tuple[str, str]],
    *,
    node: str = "write",
    prompt: str = "Say it:",
    question: str = "What?",
    metric: str = "good",
    tokens: int = 3,
    cut: str = "",
) -> BatchRecord:
    """A batch of one episode for each pair of a chosen (alternative) and a rejected output.

    ``cut``: which of both was cut off, "greedy" or "other".
    """
    traces = []
    for number, (chosen, rejected) in enumerate(pairs):
        greedy = NodeOutput(rejected, rejected, tokens=tokens, truncated=cut == "greedy")
        other = NodeOutput(chosen, chosen, tokens=tokens, truncated=cut == "other")
        example = Example(f"{question}-{number}", {"question": question}, gold=question)
        episode = Episode(example, {})
        response = Response(prompt, (greedy, other), adapter_version=2)
        episode.steps = [Step(0, node, prompt, response, greedy)]
        episode.rewards = [RewardEvent(metric, 0.0, 1)]
        episode.result = {question: chosen}
        rollout = Episode(example, {})
        rollout.steps = [Step(0, node, prompt, response, other, substituted=True)]
        gain = (number + 1) / 10
        better = Outcome.ALTERNATIVE_BETTER
        traces.append(
            Trace(
                example,
                episode,
                [Deviation(0, node, 1, rollout, better, 0.0, gain, gain, question)],
                [Preference(0, node, 1, other, greedy, gain)],
            )
        )
    return BatchRecord(
        0,
        traces,
        0,
        {node: 0},
        updates=[UpdateRecord(node, 0, 1, len(pairs), len(pairs), 0, 0.5, 0.1, 0.75, 1.0, 2.25)],
        metrics={metric: MetricRecord(0.25, 0.5, len(pairs), 0)},
        reference_update={node: True},
        checkpoint=True,
    )
