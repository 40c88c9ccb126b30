"""Plays examples, on all processes of a command, and writes their predictions, on rank 0."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..flow.episode import Episode, Failure
from ..flow.errors import FlowtuneError
from ..flow.left_out import listed
from ..flow.postprocessing import EXAMPLE_ID, ROLLOUTS, post_process
from ..learning.peers import ALONE, PeerFailed, Peers, Stop
from ..runs.example_digests import example_digests
from ..runs.prediction_writer import PredictionWriter, encode
from ..runtime.play import play_with_rollouts
from .examples import note_failed_rollouts
from .interrupts import StopRequest
from .output import note, warn
from .phase import phase
from .progress import Progress, progress

if TYPE_CHECKING:
    from ..flow.example import Example
    from ..flow.node import Exploration
    from ..flow.postprocessing import PostProcessor
    from ..flow.task import Task
    from ..training.session import Session

_CHUNK = 64
"""Examples that a process plays before the engine's caches are cleared, which bounds its memory,
and before rank 0 gets what was played."""

_SECONDS_BETWEEN_LINES = 10.0


class ExamplesFailed(FlowtuneError):
    """The flow failed for some examples, so that there is no complete file.

    Args:
        ids: those of the examples.
    """

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = ids


def write_predictions(
    session: Session,
    examples: Sequence[Example],
    out: Path,
    *,
    made_by: str,
    explorations: Mapping[str, Exploration],
    processors: Sequence[PostProcessor],
    scores: bool,
    files: Mapping[str, str] = MappingProxyType({}),
    peers: Peers = ALONE,
) -> None:
    """Play the examples and write their predictions, resuming from a partial file.

    Args:
        made_by: identifies predictions that may be mixed, such as run and checkpoint.
        explorations: the strategies of the nodes whose alternatives are also played, by node name.
        scores: write what ``Task.scores`` adds, and the rollouts.
        files: digests of the files of a program, by name; if one has changed, a warning says so.
        peers: each plays its share; rank 0 writes, and only it has anything to do in the end.

    Raises:
        ExamplesFailed: the flow failed for an example.
        FlowtuneError: the file cannot be written.
        Stop: some process was asked to stop; a note says how to resume.
        KeyboardInterrupt: as ``Stop``, at once.
    """
    # The rollouts depend on these nodes, and on no other option of the post-processors.
    made_by = ", with alternatives of ".join([made_by, *explorations])
    opened = (
        PredictionWriter(out, example_digests(examples, note), made_by, files)
        if peers.rank == 0
        else nullcontext()
    )
    with opened as file:
        if file is not None and file.done:
            note(f"resuming from {file.partial}, which has {file.done} of {len(examples)} lines")
            if file.changed:
                warn(
                    f"{listed(file.changed)} of the program has changed since these lines were"
                    f" begun, which are kept: delete {file.partial} to make all of them anew"
                )
        try:
            _play(session, examples, explorations, file, peers)
        except (KeyboardInterrupt, Stop):
            if file is not None:
                note(f"interrupted. {file.how_to_go_on}")
            raise
        except PeerFailed as error:
            if file is not None:
                error.how_to_go_on = file.how_to_go_on
            raise
        if file is None:
            return
        with phase("writing the predictions", silent=True):
            file.finish(lambda records: _lines(records, session.task, examples, processors, scores))


def _play(
    session: Session,
    examples: Sequence[Example],
    explorations: Mapping[str, Exploration],
    file: PredictionWriter | None,
    peers: Peers,
) -> None:
    """Play the examples that are not yet in the file.

    Raises:
        ExamplesFailed: the flow failed for an example; its line and all later ones are missing.
    """
    done = peers.first(lambda: 0 if file is None else file.done)
    failures: dict[int, Failure] = {}
    display = progress(done, len(examples), lambda: session.tally.calls)
    with display, StopRequest(display.stopping) as stop:
        peers.stopping = lambda: stop.requested
        shares = _Shares(session, examples, explorations, file, peers, display, stop)
        while done < len(examples) and not failures:
            chunk = range(done, min(len(examples), done + _CHUNK * peers.size))
            played, failed = shares.play(chunk)
            done += played
            failures |= failed
            display.show(done, _failed_text(failures), line=done == len(examples))
    if failures:
        ids = [examples[place].id for place in sorted(failures)]
        first = min(failures)
        raise ExamplesFailed(
            f"the flow failed for {len(failures)} of {done} examples: {listed(ids)}. The first one"
            f" that failed is example '{examples[first].id}':\n{failures[first].traceback}"
            f"{'' if file is None else file.how_to_go_on}",
            ids,
        )


@dataclass
class _Played:
    """What one process has played of a chunk, by the places of the examples.

    Attributes:
        records: as lines, of the examples whose flow came to its end; those of rank 0 are in the
            file as soon as they are there.
    """

    count: int = 0
    records: dict[int, bytes] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)


class _Shares:
    """Plays chunks of the examples together with the other processes.

    Args:
        file: on rank 0.
        stop: whether this process was asked to stop.
    """

    def __init__(
        self,
        session: Session,
        examples: Sequence[Example],
        explorations: Mapping[str, Exploration],
        file: PredictionWriter | None,
        peers: Peers,
        display: Progress,
        stop: StopRequest,
    ) -> None:
        self._session = session
        self._examples = examples
        self._explorations = explorations
        self._file = file
        self._peers = peers
        self._display = display
        self._stop = stop
        self._last_line = time.monotonic()

    def play(self, chunk: range) -> tuple[int, dict[int, Failure]]:
        """Play the examples at these places, and write what came of them.

        Returns:
            How many were played, and how the flow failed for some.

        Raises:
            Stop: some process was asked to stop; what was played by then is written.
            Exception: what ended the work of this process, after that; ``PeerFailed`` for another.
        """
        own = _Played()
        ended_by: list[Exception] = []

        def work() -> None:
            try:
                self._play_share(chunk, own)
            except Stop:
                raise
            except Exception as error:
                # The others are to end as well, but what they have is not to be lost.
                ended_by.append(error)
                raise Stop from error

        def tell() -> None:
            if ended_by:
                raise ended_by[0]

        stopped: Stop | None = None
        try:
            self._peers.each(work)
        except Stop as stop:
            stopped = stop
        each = self._peers.each(lambda: own)
        if self._file is not None:
            for played in each:
                for place, line in sorted(played.records.items()):
                    self._file.write_encoded(place, line)
        self._peers.each(tell)
        if stopped is not None:
            raise stopped
        failures = {place: how for played in each for place, how in played.failures.items()}
        return sum(played.count for played in each), failures

    def _play_share(self, chunk: range, own: _Played) -> None:
        """Play this process's share; after a failure, no further examples are started."""
        session, examples = self._session, self._examples
        places = chunk[self._peers.rank :: self._peers.size]
        seed = session.settings.training.seed

        def until_failure() -> Iterator[Example]:
            for place in places:
                if own.failures:
                    return
                yield examples[place]

        session.engine.forget()
        self._check()  # a flow may ask the engine for nothing
        for number, (episode, rollouts) in session.scheduler(self._check).stream(
            play_with_rollouts(session.task, example, explorations=self._explorations, seed=seed)
            for example in until_failure()
        ):
            place = places[number]
            own.count += 1
            if episode.failure is not None:
                own.failures[place] = episode.failure
            else:
                record = _record(
                    session.task, examples[place], episode, rollouts, self._explorations
                )
                if self._file is not None:
                    self._file.write(place, record)
                else:
                    own.records[place] = encode(record, place)
            self._show(chunk, own)
        self._check()

    def _show(self, chunk: range, own: _Played) -> None:
        now = time.monotonic()
        line = now - self._last_line > _SECONDS_BETWEEN_LINES
        self._last_line = now if line else self._last_line
        # The others are about as far: their shares are as large.
        done = chunk.start + min(own.count * self._peers.size, len(chunk))
        self._display.show(done, _failed_text(own.failures), line=line)

    def _check(self) -> None:
        if self._stop.requested:
            raise Stop
        self._peers.check()


def _failed_text(failures: Mapping[int, Failure]) -> str:
    return f"{len(failures)} failed" if failures else ""


def _record(
    task: Task,
    example: Example,
    episode: Episode,
    rollouts: list[dict[str, Any]],
    explorations: Mapping[str, Exploration],
) -> dict[str, Any]:
    """Everything that the line of an example may need, whatever options are set in the end."""
    scores = dict(task.scores(example, episode.result))
    if task.prediction_id(example) != example.id:
        scores[EXAMPLE_ID] = example.id
    if explorations:
        scores[ROLLOUTS] = rollouts
    return {"prediction": task.prediction(example, episode.result), "scores": scores}


def _lines(
    records: Sequence[Mapping[str, Any]],
    task: Task,
    examples: Sequence[Example],
    processors: Sequence[PostProcessor],
    scores: bool,
) -> Iterator[Mapping[str, Any]]:
    """The lines of the file: post-processed, with the scores only if ``scores`` is set."""
    lines = [{**record["prediction"], **record["scores"]} for record in records]
    note_failed_rollouts(lines)
    processed = post_process(processors, task, examples, lines, note)
    for line, record in zip(processed, records, strict=True):
        dropped = () if scores else record["scores"]
        yield {name: value for name, value in line.items() if name not in dropped}
