"""Trackers get each figure once, and whatever they do, the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flowtune_cli.runs.directory import RunDirectory
from flowtune_cli.trackers.tracker import TrackedRun, TrackerFactory
from flowtune_cli.trackers.tracking import Trackers
from report.stored_runs import sums_run
from support.evaluated_runs import evaluation
from support.random_batches import played

SETTINGS = {"training": {"seed": 7}}


class Recorder:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, fails_at: str = "", error: BaseException | None = None) -> None:
        self.run: TrackedRun | None = None
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.calls: list[str] = []
        self._fails_at = fails_at
        self._error = error or RuntimeError("no route\nto host")

    def __call__(self, run: TrackedRun) -> Recorder:
        self.run = run
        self._call("start")
        return self

    def log(self, episodes: int, figures: Mapping[str, float]) -> None:
        self._call("log")
        self.points.append((episodes, figures))

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        print(f"hello from {name}")
        if self._fails_at == name:
            raise self._error


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return sums_run(tmp_path, 1)


def log(directory: RunDirectory, numbers: range, **factories: TrackerFactory) -> None:
    """Log batches of 3 episodes each."""
    records = list(played(numbers.stop))
    with Trackers(list(factories), directory, SETTINGS, factories.__getitem__) as trackers:
        for number in numbers:
            trackers.log(records[number])


def test_what_a_tracker_is_told(directory: RunDirectory) -> None:
    recorder = Recorder()
    log(directory, range(3), it=recorder)
    assert recorder.run is not None
    assert (recorder.run.name, recorder.run.task) == ("run", "sums")
    assert recorder.run.id.startswith("run-20")
    assert (recorder.run.path, recorder.run.settings) == (directory.path, SETTINGS)
    assert [episodes for episodes, _ in recorder.points] == [3, 6, 9]
    assert recorder.calls == ["start", "log", "log", "log", "close"]


def test_evaluations_are_logged_once_beside_batches(directory: RunDirectory) -> None:
    recorder = Recorder()
    for _ in range(2):
        with Trackers(["it"], directory, SETTINGS, lambda name: recorder) as trackers:
            trackers.log_evaluation(evaluation(0, 0.25))
            trackers.log(next(played(1)))
            trackers.log_evaluation(evaluation(1, None))
    assert [episodes for episodes, _ in recorder.points] == [0, 3, 3]
    assert recorder.points[0][1] == {"eval/high": 0.25, "eval/own.exact": 0.0, "eval/failed": 0.1}
    assert recorder.points[2][1] == {"eval/own.exact": 0.125, "eval/failed": 0.1}


def test_what_was_logged_before_a_resume_is_not_logged_again(directory: RunDirectory) -> None:
    first, second = Recorder(), Recorder()
    log(directory, range(4), it=first)
    log(directory, range(2, 6), it=second)  # its checkpoint was after batch 1
    assert [episodes for episodes, _ in first.points] == [3, 6, 9, 12]
    assert [episodes for episodes, _ in second.points] == [15, 18]
    assert first.run == second.run
    other = Recorder()
    log(directory, range(4, 6), it=Recorder(), new=other)
    assert [episodes for episodes, _ in other.points] == [15, 18]


@pytest.mark.parametrize("when", ["start", "log", "close"])
@pytest.mark.parametrize(
    "error", [RuntimeError("no route\nto host"), SystemExit("no route to host")]
)
def test_a_tracker_that_fails_is_off_and_says_so_once(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], when: str, error: BaseException
) -> None:
    failing, other = Recorder(when, error), Recorder()
    log(directory, range(3), bad=failing, good=other)
    assert [episodes for episodes, _ in other.points] == [3, 6, 9]
    assert failing.calls.count(when) == 1
    assert failing.calls[-1] == when
    said = capsys.readouterr()
    assert said.out == ""
    notes = [line for line in said.err.splitlines() if line.startswith("flowtune: ")]
    assert notes == [
        "flowtune: note: tracker 'bad' is off, the run continues:"
        f" {type(error).__name__}: no route to host"
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_is_reported_with_the_pip_command(
    directory: RunDirectory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    with Trackers([name], directory, SETTINGS) as trackers:
        trackers.log(next(played(1)))
    assert (
        f"tracker '{name}' is off, the run continues: it needs the package {name}:"
        f" pip install 'flowtune[{name}]'\n" in capsys.readouterr().err
    )


def test_a_name_that_nothing_goes_by(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with Trackers(["tensorbord"], directory, SETTINGS):
        pass
    assert "Did you mean 'tensorboard'?" in capsys.readouterr().err


def test_an_interrupt_is_not_a_trackers_failure(directory: RunDirectory) -> None:
    with pytest.raises(KeyboardInterrupt):
        log(directory, range(1), it=Recorder("log", KeyboardInterrupt()))


def test_secrets_are_not_shown(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    error = RuntimeError("denied: Bearer 0123456789abcdef")
    log(directory, range(1), it=Recorder("start", error))
    assert "denied: Bearer …" in capsys.readouterr().err
    assert "0123456789abcdef" not in "".join(
        path.read_text(errors="replace") for path in directory.path.iterdir() if path.is_file()
    )


def test_a_torn_memory_of_what_was_logged(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory.path / "trackers.json").write_text('["torn"]')
    recorder = Recorder()
    log(directory, range(1), it=recorder)
    assert len(recorder.points) == 1
    assert "trackers may get metrics twice" in capsys.readouterr().err
    assert json.loads((directory.path / "trackers.json").read_text()) == {"it": 3}


def test_without_trackers_nothing_is_written(directory: RunDirectory) -> None:
    before = sorted(directory.path.iterdir())
    log(directory, range(1))
    assert sorted(directory.path.iterdir()) == before


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; from flowtune_cli.registry import load_registry\n"
        "print(sorted(load_registry().entries('tracker')))\n"
        "heavy = ('tensorboard', 'trackio', 'wandb', 'torch')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['tensorboard', 'trackio', 'wandb']", "[]"]
