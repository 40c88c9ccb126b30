"""One run on one process and on several: the same adapters, preferences and stored rows."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from flowtune_cli.config.settings import ModelSettings
from flowtune_cli.learning.peers import ALONE
from support.rank_cases import Short, train
from support.rank_workers import Raised, Workers
from support.runs_compared import assert_same_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="os.fork"),
]

ADAM = {"name": "adam", "lr": 0.01}
COCOB = {"name": "cocob", "alpha": 2.0}
SMOOTH = {"name": "adam", "lr": 0.01, "eps": 0.01}
"""Its steps do not go by signs, which rounding may turn round."""

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(4 + 8) as started:
        yield started


@pytest.fixture
def trained(
    workers: Workers,
    tiny_settings: ModelSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    """Trains on so many processes; what each of them then holds."""
    monkeypatch.setenv("FLOWTUNE_PLUGINS", "")

    def on(size: int, name: str, **more: Any) -> list[dict[str, Any]]:
        if size == 1:
            return [train(ALONE, tiny_settings, tmp_path, name, **more)]
        return workers.run(size, "train", tiny_settings, tmp_path, name, **more)

    return on


def flat(value: Any) -> list[Any]:
    """The numbers and arrays of a nested state, in order."""
    if isinstance(value, dict):
        return [each for key in value for each in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [each for inside in value for each in flat(inside)]
    return [value]


def assert_same(one: dict[str, Any], other: dict[str, Any], atol: float = 1e-5) -> None:
    for what in ("adapters", "optimizers"):
        pairs = list(zip(flat(one[what]), flat(other[what]), strict=True))
        assert pairs
        for a, b in pairs:
            numpy.testing.assert_allclose(a, b, atol=atol, rtol=atol)
    for what in ("versions", "position", "progressive", "nodes"):
        assert one[what] == other[what], what


@pytest.mark.parametrize(
    ("optimizer", "step_per", "sizes", "more"),
    [
        (COCOB, "datum", (2, 4), {"batch_size": 3}),
        (ADAM, "batch", (3,), {"batch_size": 4, "tokens": 40}),
        (COCOB, "batch", (2,), {"batch_size": 3, "tokens": 40}),
    ],
    ids=["cocob, a step a datum", "adam, a step a batch", "cocob, a step a batch"],
)
def test_however_many_processes_it_is_the_same_run(
    trained: Train,
    tmp_path: Path,
    optimizer: dict[str, Any],
    step_per: str,
    sizes: tuple[int, ...],
    more: dict[str, Any],
) -> None:
    """Batches of 3 or 4 and 1: some ranks play nothing, and have no data of some or all nodes."""
    more = {**more, "learning": {"optimizer": optimizer, "step_per": step_per}}
    (alone,) = trained(1, "alone", **more)
    for size in sizes:
        several = trained(size, f"on-{size}", **more)
        for each in several:
            assert_same(alone, each)
            assert_same(several[0], each, atol=0)
        assert_same_rows(tmp_path / "alone", tmp_path / f"on-{size}")
    learned = [n for n, v in alone["versions"].items() if v and not n.startswith("reference")]
    assert {"draft", "wild", "judge", "rank", "rare"} <= set(learned)
    assert alone["nodes"]["urn"] != {"red": 0.0, "blue": 0.0}


@pytest.mark.parametrize("step_per", ["datum", "batch"])
def test_documents_are_read_with_adapters_off_on_all(
    trained: Train, tmp_path: Path, step_per: str
) -> None:
    """Each by itself, so their keys and values are the same to the bit: COCOB's first steps, which
    go by signs, go the same way."""
    more = {"documents": True, "learning": {"optimizer": COCOB, "step_per": step_per}}
    (alone,) = trained(1, "alone", **more, tokens=60)
    several = trained(3, "three", **more, tokens=60)
    for each in several:
        assert_same(alone, each)
        assert_same(several[0], each, atol=0)
    assert_same_rows(tmp_path / "alone", tmp_path / "three")


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    trained: Train, tmp_path: Path, first: int, then: int
) -> None:
    """It is stopped within its second mini-batch, on the last rank alone."""
    more = {"batch_size": 3, "save_every": 8}
    (whole,) = trained(1, "whole", **more)
    stopped = trained(first, "stopped", **more, stop_in_batch=1)
    assert [each["stopped"] for each in stopped] == [True] * first
    assert {each["position"].episodes for each in stopped} == {3}
    for each in trained(then, "stopped", **more):
        assert_same(whole, each)
    assert_same_rows(tmp_path / "whole", tmp_path / "stopped")


def test_held_out_examples_are_shared_out_too(trained: Train, tmp_path: Path) -> None:
    more = {"held_out": 5, "evaluate": {"every": 4}}
    (alone,) = trained(1, "alone", **more)
    for each in trained(3, "three", **more):
        assert each["evaluations"] == alone["evaluations"]
        assert len(each["evaluations"]) == 3
        assert_same(alone, each)
    assert_same_rows(tmp_path / "alone", tmp_path / "three")


def test_an_effect_runs_once_and_is_known_after_a_stop_on_other_processes(
    trained: Train, tmp_path: Path
) -> None:
    more = {"effects": tmp_path / "calls", "batch_size": 4}
    trained(3, "run", **more, stop_in_batch=1)
    kept = sorted(path.name for path in (tmp_path / "run").glob("journal*"))
    assert kept, "no journal was left of a batch that was stopped half-way"
    trained(2, "run", **more)
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(calls) == sorted(set(calls)), "an effect ran twice"
    assert len(calls) == 8
    assert not list((tmp_path / "run").glob("journal*"))


# Faults


def failed(workers: Workers, size: int, case: str, *arguments: Any, **more: Any) -> list[str]:
    """The messages with which a case ends on each rank."""
    workers.begin(size, case, *arguments, **more)
    outcomes = workers.end(size)
    assert all(isinstance(each, Raised) for each in outcomes), outcomes
    return [each.message for each in outcomes]


def test_what_fails_on_one_rank_ends_all(workers: Workers) -> None:
    messages = failed(workers, 3, "fail_on", 1)
    assert messages[1] == "no luck"
    for rank in (0, 2):
        assert re.fullmatch(r"rank 1 \(process \d+ on \S+\): no luck", messages[rank])


def test_a_failure_ends_the_work_of_others(workers: Workers) -> None:
    messages = failed(workers, 3, "fail_while_others_work", 2)
    assert "rank 2" in messages[0]
    assert "unlucky" in messages[0]


def test_what_cannot_be_pickled_says_so(workers: Workers) -> None:
    messages = failed(workers, 2, "give_a_lambda", 1)
    assert "cannot be sent to the others" in messages[0]
    assert messages[0].startswith("rank 1 ")


def test_who_does_not_come_is_named(workers: Workers) -> None:
    workers.patience = 2.0
    try:
        messages = failed(workers, 2, "dawdle", 1)
    finally:
        workers.patience = 60.0
    assert messages[0].startswith("rank 1 (")
    assert "training.rank_timeout = 2 seconds" in messages[0]
    assert messages[1] == messages[0]  # which it hears when it comes


def test_who_is_killed_while_data_go_round_is_named(workers: Workers) -> None:
    spare = workers.spare(3)
    spare.begin(3, "die_before_the_sum", 2)
    for outcome in spare.end(2):
        assert re.match(r"rank 2 \(process \d+ on \S+\) is lost", outcome.message), outcome


def test_a_frozen_rank_0_whose_store_does_not_answer_is_named(workers: Workers) -> None:
    spare = workers.spare(2)
    spare.begin(2, "freeze", 0)
    try:
        assert spare.workers[1].poll(60.0), "it waits for ever"
        outcome = pickle.loads(spare.workers[1].recv_bytes())
    finally:
        os.kill(spare.processes[0], signal.SIGKILL)
    assert re.match(r"rank 0 \(.*\) is lost: its store no longer answers", outcome.message), outcome


def test_what_fails_before_data_go_round_is_told(workers: Workers) -> None:
    for message in failed(workers.spare(3), 3, "fail_before_the_sum", 1)[::2]:
        assert re.fullmatch(r"rank 1 \(process \d+ on \S+\): no memory", message)


PLAY, LEARN = "play and deviate", "learn"


def test_memory_that_is_short_on_one_rank_changes_nothing(trained: Train, tmp_path: Path) -> None:
    """It plays and learns in smaller pieces, which are rounded otherwise."""
    more = {"learning": {"optimizer": SMOOTH, "step_per": "batch"}, "batch_size": 4, "tokens": 80}
    (alone,) = trained(1, "alone", **more)
    short = [Short(1, 0, PLAY, 1), Short(1, 0, LEARN, 1), Short(0, 1, LEARN, 1)]
    several = trained(2, "two", **more, short_of=short)
    for each in several:
        assert_same(alone, each)
        assert_same(several[0], each, atol=0)
    assert_same_rows(tmp_path / "alone", tmp_path / "two")


@pytest.mark.parametrize(
    ("rank", "phase", "kept"),
    [(1, PLAY, ["0000003"]), (0, PLAY, ["0000003"]), (1, LEARN, [])],
)
def test_memory_that_runs_out_on_one_rank_ends_all(
    workers: Workers,
    tiny_settings: ModelSettings,
    tmp_path: Path,
    rank: int,
    phase: str,
    kept: list[str],
) -> None:
    """What was learned before is kept, unless the failure may have left it half-done."""
    case = {
        "batch_size": 3,
        "save_every": 8,
        "count": 6,
        "short_of": [Short(rank, 1, phase, 99999)],
    }
    messages = failed(workers, 2, "train", tiny_settings, tmp_path, "run", **case)
    assert messages[rank].startswith("memory ran out while ")
    assert "lower one of model.context" in messages[rank]
    assert re.match(rf"rank {rank} \(process \d+ on \S+\): memory ran", messages[1 - rank])
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == kept


def test_a_flow_that_fails_on_one_rank_is_placed(
    workers: Workers, tiny_settings: ModelSettings, tmp_path: Path
) -> None:
    case = {"max_failures": 0.0, "batch_size": 4, "count": 4}
    for message in failed(workers, 2, "train", tiny_settings, tmp_path, "run", **case):
        assert re.search(r"The last one, of example 'e3' on rank \d \(process \d+ on", message)
        assert "this example fails" in message


@pytest.mark.parametrize("step_per", ["datum", "batch"])
def test_a_loss_that_is_not_finite_on_one_rank_ends_all(
    workers: Workers, tiny_settings: ModelSettings, tmp_path: Path, step_per: str
) -> None:
    learning = {"optimizer": ADAM, "step_per": step_per}
    case = {"learning": learning, "not_finite_on": 1, "batch_size": 4, "tokens": 40}
    messages = failed(workers, 2, "train", tiny_settings, tmp_path, "run", **case)
    assert "the loss of node" in messages[1]
    assert re.match(r"rank 1 \(.*\): the loss of node '\w+' is nan", messages[0])


def test_a_stop_on_one_rank_stops_all(workers: Workers) -> None:
    assert workers.run(3, "stop_on", 2) == ["stopped"] * 3


def test_data_of_all_sizes_go_round(workers: Workers) -> None:
    for given in workers.run(3, "exchange"):
        assert given == [[0, ""], [1, "x" * 1_000_000], [2, "x" * 2_000_000]]
