"""The data of a report: everything that the page or the JSON shows about a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..flow.errors import FlowtuneError
from ..runs.directory import RunDirectory, RunInfo
from ..runs.evaluations import Evaluation, evaluations_json
from ..runs.learning_warnings import LearningWarning
from ..runs.preference_reader import PreferenceWithPrompt, sample_preferences
from ..runs.reader import RunReader, has_data
from ..runs.records import Counts, MetricPoint, NodeSummary, UpdatePoint


@dataclass(frozen=True)
class RunSummary:
    """What a report says about a run.

    Args:
        settings: the content of settings.json; empty if it cannot be read, with the reason in
            ``problem``.
        counts: None if nothing has been stored yet.
        metrics: each metric's series over the batches.
        updates: each node's series of updates over the batches.
        references: at the end of each window, the episodes so far, and by node whether its
            reference moved.
        seconds: by phase.
        warnings: nodes that were to learn and have not, and why.
        sample: by node, some of its preferences, from its first to its last.
        evaluations: on held-out examples.
    """

    info: RunInfo
    settings: Mapping[str, Any]
    problem: str
    counts: Counts | None
    metrics: Mapping[str, list[MetricPoint]]
    updates: Mapping[str, list[UpdatePoint]]
    references: list[tuple[int, Mapping[str, bool]]]
    nodes: list[NodeSummary]
    seconds: Mapping[str, float]
    warnings: list[LearningWarning]
    sample: Mapping[str, list[PreferenceWithPrompt]]
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def episodes(self) -> int:
        """The number of episodes stored."""
        return self.counts.episodes if self.counts else 0

    def drift(self, node: str) -> float | None:
        """The distance of a node's adapter from its reference after its last update."""
        drifts = [point.update.reference_drift for point in self.updates.get(node, ())]
        return next((drift for drift in reversed(drifts) if drift is not None), None)


def summarize_run(run: RunDirectory, points: int | None = None, samples: int = 4) -> RunSummary:
    """Read a run in any state.

    Args:
        points: at most about this many of each series; None: all.
        samples: the number of preferences of each node.

    Raises:
        FlowtuneError: run.json or the store cannot be read.
    """
    settings: Mapping[str, Any] = {}
    problem = ""
    try:
        settings = run.settings
    except FlowtuneError as error:
        problem = str(error)
    info = run.info
    if not has_data(run.store_path):
        return RunSummary(info, settings, problem, None, {}, {}, [], [], {}, [], {})
    with RunReader(run.store_path) as reader:
        nodes = reader.node_summary()
        return RunSummary(
            info,
            settings,
            problem,
            reader.counts(),
            reader.metrics(points),
            reader.updates(points),
            reader.reference_updates(),
            nodes,
            reader.timings(),
            reader.learning_warnings(),
            {
                node.node: sample_preferences(reader, node.node, samples)
                for node in nodes
                if node.preferences
            },
            reader.evaluations(),
        )


def as_json(run: RunSummary) -> dict[str, Any]:
    """The summary as JSON values, without the sample and the settings."""
    info = run.info
    return {
        "run": info.name,
        "path": str(info.path),
        "task": info.task,
        "model": info.model,
        "engine": info.engine,
        "state": info.state,
        "created": info.created,
        "tags": list(info.tags),
        "note": info.note,
        "versions": dict(info.versions),
        "counts": asdict(run.counts) if run.counts else None,
        "metrics": {
            name: {
                **asdict(points[-1].metric),
                "series": [
                    {"episodes": p.episodes, "window": p.metric.window, "overall": p.metric.overall}
                    for p in points
                ],
            }
            for name, points in run.metrics.items()
        },
        "evaluations": evaluations_json(run.evaluations),
        "reference_updates": [
            {"episodes": episodes, "moved": dict(moved)} for episodes, moved in run.references
        ],
        "nodes": [
            {
                **asdict(node),
                "reference_drift": run.drift(node.node),
                "series": [
                    {"episodes": p.episodes, **asdict(p.update)}
                    for p in run.updates.get(node.node, ())
                ],
            }
            for node in run.nodes
        ],
        "warnings": [asdict(warning) for warning in run.warnings],
        "seconds": dict(run.seconds),
        "usage": info.usage.to_json(),
    }
