"""The figures of a report: all that a page or JSON shows of a run, read from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..flow.errors import FlowtuneError
from ..runs.directory import RunDirectory, RunInfo
from ..runs.export import PreferenceInContext, RunExport, has_begun
from ..runs.stored import Counts, MetricPoint, NodeSummary, UpdatePoint


@dataclass(frozen=True)
class RunFigures:
    """A run in figures.

    Args:
        settings: what settings.json holds; empty when it cannot be read, and then ``problem``
            says why.
        counts: None when nothing has been stored yet.
        metrics: each metric's series over the batches.
        updates: each node's series of updates over the batches.
        references: how many episodes had been played when it was decided whether references move,
            and by node whether it did.
        seconds: by phase.
        sample: by node some of its preferences, from its first to its last.
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
    sample: Mapping[str, list[PreferenceInContext]]

    @property
    def episodes(self) -> int:
        """How many are stored."""
        return self.counts.episodes if self.counts else 0

    def drift(self, node: str) -> float | None:
        """How far a node's adapter was from its reference after its last update."""
        drifts = [point.update.reference_drift for point in self.updates.get(node, ())]
        return next((drift for drift in reversed(drifts) if drift is not None), None)


def run_figures(run: RunDirectory, points: int | None = None, samples: int = 4) -> RunFigures:
    """Read a run, be it finished, stopped, going on, or not begun.

    Args:
        points: at most about so many of each series; None: all.
        samples: how many preferences of each node.

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
    if not has_begun(run.store_path):
        return RunFigures(info, settings, problem, None, {}, {}, [], [], {}, {})
    with RunExport(run.store_path) as store:
        nodes = store.node_summary()
        return RunFigures(
            info,
            settings,
            problem,
            store.counts(),
            store.metrics(points),
            store.updates(points),
            store.reference_decisions(),
            nodes,
            store.timings(),
            {
                node.node: store.preference_sample(node.node, samples)
                for node in nodes
                if node.preferences
            },
        )


def as_json(figures: RunFigures) -> dict[str, Any]:
    """The figures as JSON values; without the sample and the settings, which are no figures."""
    info = figures.info
    return {
        "run": info.name,
        "path": str(info.path),
        "task": info.task,
        "model": info.model,
        "state": info.state,
        "created": info.created,
        "versions": dict(info.versions),
        "counts": asdict(figures.counts) if figures.counts else None,
        "metrics": {
            name: {
                **asdict(points[-1].metric),
                "series": [
                    {"episodes": p.episodes, "window": p.metric.window, "overall": p.metric.overall}
                    for p in points
                ],
            }
            for name, points in figures.metrics.items()
        },
        "reference_updates": [
            {"episodes": episodes, "moved": dict(moved)} for episodes, moved in figures.references
        ],
        "nodes": [
            {
                **asdict(node),
                "reference_drift": figures.drift(node.node),
                "series": [
                    {"episodes": p.episodes, **asdict(p.update)}
                    for p in figures.updates.get(node.node, ())
                ],
            }
            for node in figures.nodes
        ],
        "seconds": dict(figures.seconds),
    }
