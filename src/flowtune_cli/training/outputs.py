"""What a run writes besides its checkpoints: its store, run.json and trackers; by rank 0 alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..flow.node import Node
from ..flow.task import Task
from ..runs.batch import BatchRecord
from ..runs.directory import RunDirectory
from ..runs.evaluations import Evaluation
from ..runs.store import Store
from ..runs.usage import Usage
from ..trackers.tracking import Trackers
from .checkpoint import prune


class NoOutputs:
    """What the other processes of a run write: nothing. Use it in a ``with``, as ``Outputs``."""

    def __enter__(self) -> NoOutputs:
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def begin(self, batches: int, nodes: Sequence[Node], gate: str | None) -> list[Evaluation]:
        """Remove what was stored after so many batches; gives the evaluations that are left."""
        return []

    def batch(self, record: BatchRecord) -> None:
        """Store a mini-batch."""

    def batch_is_safe(self, record: BatchRecord, episodes: int, usage: Usage) -> None:
        """The batch is stored, and in a checkpoint if one was due; with what the run has taken."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Store an evaluation."""

    def evaluation_is_safe(
        self, evaluation: Evaluation, keep: int, best: int | None, usage: Usage
    ) -> None:
        """The evaluation is stored; only these checkpoints are kept, see ``checkpoint.prune``."""


class Outputs(NoOutputs):
    """The store and trackers of one run.

    Args:
        settings: the run's, by section, as JSON values.
        trackers: the setting ``run.trackers``.
    """

    def __init__(
        self, run: RunDirectory, task: Task, settings: Mapping[str, Any], trackers: Sequence[str]
    ) -> None:
        self._run = run
        self._task = task
        self._settings = settings
        self._names = trackers
        self._stack = ExitStack()

    def __enter__(self) -> Outputs:
        trackers = Trackers(self._names, self._run, self._settings)
        with ExitStack() as stack:
            self._trackers = stack.enter_context(trackers)
            self._store = stack.enter_context(Store(self._run.store_path, self._task.question_text))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def begin(self, batches: int, nodes: Sequence[Node], gate: str | None) -> list[Evaluation]:
        """See ``NoOutputs``."""
        self._store.truncate(batches)
        self._store.write_task(nodes, gate)
        return self._store.evaluations()

    def batch(self, record: BatchRecord) -> None:
        """See ``NoOutputs``."""
        self._store.write_batch(record)

    def batch_is_safe(self, record: BatchRecord, episodes: int, usage: Usage) -> None:
        """See ``NoOutputs``."""
        self._run.update(episodes=episodes, usage=usage)
        self._trackers.log(record)

    def evaluation(self, evaluation: Evaluation) -> None:
        """See ``NoOutputs``."""
        self._store.write_evaluation(evaluation)

    def evaluation_is_safe(
        self, evaluation: Evaluation, keep: int, best: int | None, usage: Usage
    ) -> None:
        """See ``NoOutputs``."""
        self._run.update(usage=usage)
        prune(self._run.checkpoints, keep, best)
        self._trackers.log_evaluation(evaluation)
